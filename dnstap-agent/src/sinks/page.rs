//! An output that writes one page: it counts messages as they come, and writes the report at the
//! end.

use std::{
    fs::File,
    io::{self, Write as _},
};

use super::{
    batch::Batch,
    file::{open_stdout, open_unchanged, privileges_at},
    queue::blocking::{self, Failure, Output, Written},
    report::Takes,
    sink::{About, Mistake, Opened, Place, Sink, Typed},
};
use crate::{host::sandbox::NeededPrivileges, report::Report};

/// The output `html:PATH`.
#[derive(Debug, PartialEq)]
pub(super) struct Page(pub(super) Place);

impl Typed for Page {
    fn parse(form: &str, rest: &str) -> Result<Self, Mistake> {
        match Place::parse(rest)? {
            (place, None) => Ok(Self(place)),
            (_, Some(_)) => Err(Mistake::Other(format!(
                "`{form}:{rest}`: a page takes no option"
            ))),
        }
    }
}

impl Sink for Page {
    fn name(&self) -> String {
        format!("html:{}", self.0)
    }

    fn place(&self) -> Option<&Place> {
        Some(&self.0)
    }

    fn privileges(&self) -> NeededPrivileges {
        privileges_at(&self.0)
    }

    fn wants_views(&self) -> bool {
        true
    }

    fn open(&self, _: Takes, about: &About) -> Result<Opened, String> {
        let file = match &self.0 {
            Place::Stdout => open_stdout()?,
            Place::Path(path) => open_unchanged(path)?,
        };
        let output = PageOutput {
            report: Report::default(),
            file,
            about: about.clone(),
        };
        Ok(Box::new(|_| blocking::start(Box::new(output))))
    }
}

/// A report that is written to a file at the end.
struct PageOutput {
    report: Report,
    /// File whose content is overwritten at the end.
    file: File,
    about: About,
}

impl Output for PageOutput {
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
        let mut written = Written {
            bytes: batch.frames.len() as u64,
            ..Written::default()
        };
        batch.for_each(|message| match message {
            Some(message) => {
                self.report.take(message);
                written.messages += 1;
            }
            None => written.unfit += 1,
        });
        Ok(written)
    }

    fn finish(&mut self) -> io::Result<()> {
        let page = self.report.page(&self.about.facts());
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write_all(page.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dnstap_proto::message::Type;

    use prost::Message as _;

    use super::*;
    use crate::{report::Facts, tally::tests::message};

    #[test]
    fn the_page_replaces_what_was_there_and_counts_each_frame() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page.html");
        fs::write(&path, "x".repeat(1_000_000)).expect("written");
        let about = About::default();
        let file = File::options().write(true).open(&path).expect("opened");
        let mut output = PageOutput {
            report: Report::default(),
            file,
            about: about.clone(),
        };
        let mut frames = vec![0, 0, 0, 3, 0xff, 0xff, 0xff];
        for _ in 0..2 {
            let frame = message(Type::ClientQuery, "name", 0, 0).encode_to_vec();
            frames.extend(u32::try_from(frame.len()).expect("short").to_be_bytes());
            frames.extend(frame);
        }
        let batch = Batch::new(frames, 3);
        let written = output.write(&batch).expect("taken");
        assert_eq!((written.messages, written.unfit), (2, 1));
        about.tell(Facts {
            sources: vec!["taps named".to_owned()],
            ..Facts::default()
        });
        output.finish().expect("written");
        let page = fs::read_to_string(&path).expect("a page");
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
        for stated in ["taps named", "<span id=\"messages\">2</span>"] {
            assert!(page.contains(stated), "{page}");
        }
    }
}
