//! Opening of outputs: all are tried, and all problems are reported at once, each with cause and
//! remedy. Only when all are open are existing files emptied (as `tcpdump -w` does), or moved aside
//! if the output rotates.

use std::sync::Arc;

use thiserror::Error;

use crate::sinks::{
    forms::OutputSpec,
    queue::sink_thread::Work,
    report::{Account, Takes},
    sink::About,
};

/// Problems with opening outputs: one line each, with the output, the cause and the remedy. Never
/// empty.
#[derive(Debug, Error)]
#[error("{}", .0.join("\n"))]
pub struct OpenError(pub Vec<String>);

impl OpenError {
    pub(super) fn line(spec: &OutputSpec, problem: &str) -> String {
        format!("cannot open output {spec}: {problem}")
    }
}

/// Opens all outputs in order, and starts them when all are open; `about` is for pages.
pub(super) fn open_all(
    specs: &[(&OutputSpec, Takes)],
    about: &About,
) -> Result<Vec<(Work, Arc<Account>)>, OpenError> {
    let opened = all(specs.iter().enumerate().map(|(nth, (spec, takes))| {
        let before = specs[..nth].iter().map(|(spec, _)| *spec);
        let opened = match spec.conflict(before) {
            Some(why) => Err(why.to_owned()),
            None => spec.0.open(*takes, about),
        };
        (*spec, opened)
    }))?;
    all(specs.iter().zip(opened).map(|((spec, _), begin)| {
        let account = Arc::default();
        (*spec, begin(&account).map(|work| (work, account)))
    }))
}

/// Returns all results, or all problems.
fn all<'a, T>(
    results: impl Iterator<Item = (&'a OutputSpec, Result<T, String>)>,
) -> Result<Vec<T>, OpenError> {
    let (mut whole, mut problems) = (Vec::new(), Vec::new());
    for (spec, result) in results {
        match result {
            Ok(one) => whole.push(one),
            Err(problem) => problems.push(OpenError::line(spec, &problem)),
        }
    }
    if problems.is_empty() {
        Ok(whole)
    } else {
        Err(OpenError(problems))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;

    #[test]
    fn a_new_file_is_readable_by_owner_and_group_alone_and_an_old_one_is_emptied() {
        let folder = tempfile::tempdir().expect("a folder");
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        fs::write(&old, "x".repeat(1000)).expect("written");
        opened(&[file(&new), file(&old)]).expect("opened");
        let mode = fs::metadata(&new).expect("there").permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}"); // 0640 under any umask
        assert_eq!(fs::read(&new).expect("read"), fs::read(&old).expect("read"));
        assert!(
            fs::read(&old)
                .expect("read")
                .starts_with(b"\0\0\0\0\0\0\0\x22")
        );
    }

    #[test]
    fn a_page_and_a_file_cannot_have_the_same_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a").display().to_string();
        let specs = ["text:", "html:"].map(|form| format!("{form}{path}").parse().expect("valid"));
        let Err(error) = opened(&specs) else {
            panic!("both are open")
        };
        assert_eq!(error.0.len(), 1, "{error}");
        assert!(error.to_string().contains("the same path"), "{error}");
    }

    #[test]
    fn every_problem_is_told_with_its_fix_and_nothing_is_emptied() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = folder.path().join("old");
        fs::write(&old, "precious").expect("written");
        let specs = [
            file(&old),
            file(&folder.path().join("no/such.fstrm")),
            file(folder.path()),
            file(&old.join("below-a-file")),
            spec(&format!("json:{}", old.display())),
            spec("text:-"),
            spec("json:-"),
            spec(&format!(
                "text:{}/x,owner=no-such-user",
                folder.path().display()
            )),
            spec("text:/dev/null,mode=0600"),
        ];
        let error = opened(&specs).expect_err("cannot work");
        let text = error.to_string();
        let told: Vec<&str> = text.lines().collect();
        assert_eq!(told.len(), 7, "{text}");
        for (told, part) in told.iter().zip([
            "mkdir -p",
            "is a folder",
            "not a folder",
            "same path",
            "already taken",
            "no user no-such-user",
            "no regular file",
        ]) {
            assert!(
                told.starts_with("cannot open output ") && told.contains(part),
                "{told}"
            );
        }
        assert_eq!(fs::read(&old).expect("read"), b"precious");
    }

    #[test]
    fn a_device_is_written_as_a_stream() {
        opened(&[file(Path::new("/dev/null"))]).expect("opened");
        let error = opened(&[file(Path::new("/dev/full"))]).expect_err("no room");
        assert!(error.to_string().contains("No space left"), "{error}");
    }

    fn opened(specs: &[OutputSpec]) -> Result<(), OpenError> {
        let specs: Vec<_> = specs.iter().map(|spec| (spec, Takes::Messages)).collect();
        open_all(&specs, &About::default()).map(drop)
    }

    fn file(path: &Path) -> OutputSpec {
        spec(&format!("file:{}", path.display()))
    }

    fn spec(text: &str) -> OutputSpec {
        text.parse().expect("valid")
    }
}
