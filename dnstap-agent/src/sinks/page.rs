//! Owns an output that is one page: it counts messages as they come, and writes the report at the end.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
};

use dnstap_proto::lenient;

use super::{
    Batch,
    output::{Failure, Output, Written, frame_ends},
};
use crate::report::{Facts, Report};

/// What pages state of the messages; it is told before they end.
#[derive(Clone, Debug, Default)]
pub(super) struct About(Arc<Mutex<Facts>>);

impl About {
    pub(super) fn tell(&self, facts: Facts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    fn facts(&self) -> Facts {
        let facts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        facts.clone()
    }
}

/// A report on its way to a file.
pub(super) struct PageOutput {
    report: Report,
    file: File,
    about: About,
}

impl PageOutput {
    /// What is in the file now is overwritten at the end.
    pub(super) fn new(file: File, about: About) -> Self {
        Self {
            report: Report::default(),
            file,
            about,
        }
    }
}

impl Output for PageOutput {
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
        let mut written = Written {
            bytes: batch.frames.len() as u64,
            ..Written::default()
        };
        let mut begin = 0;
        for end in frame_ends(&batch.frames) {
            match lenient::decode(batch.frames.slice(begin + 4..end)) {
                Ok(dnstap) => {
                    self.report.take(&dnstap);
                    written.messages += 1;
                }
                Err(_) => written.unfit += 1,
            }
            begin = end;
        }
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
    use crate::tally::tests::message;

    #[test]
    fn the_page_replaces_what_was_there_and_counts_each_frame() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page.html");
        fs::write(&path, "x".repeat(1_000_000)).expect("written");
        let about = About::default();
        let file = File::options().write(true).open(&path).expect("opened");
        let mut output = PageOutput::new(file, about.clone());
        let mut frames = vec![0, 0, 0, 3, 0xff, 0xff, 0xff];
        for _ in 0..2 {
            let frame = message(Type::ClientQuery, "name", 0, 0).encode_to_vec();
            frames.extend(u32::try_from(frame.len()).expect("short").to_be_bytes());
            frames.extend(frame);
        }
        let batch = Batch {
            frames: frames.into(),
            messages: 3,
        };
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
