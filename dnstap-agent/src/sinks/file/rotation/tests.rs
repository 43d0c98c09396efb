//! Rotation by time and by size, in a folder, with a clock that moves only when the test says so.

use std::{
    process::Command,
    sync::{Mutex, atomic::Ordering::Relaxed},
    time::{Instant, SystemTime},
};

use super::*;
use crate::sinks::file::piece::{Ends, Piece};

/// 2026-11-24T00:15:30Z.
const START: i64 = 1_795_479_330;
const MESSAGE: &[u8] = b"\0\0\0\x06dnstap";

#[test]
fn a_file_is_left_when_its_time_is_over_and_named_by_then() {
    let mut rig = Rig::new("q.fstrm", "rotate-time=1h");
    rig.write();
    rig.pass(44 * 60 + 29);
    assert_eq!(rig.next_turn(), Some(Duration::from_secs(1)));
    rig.write();
    assert_eq!(rig.files(), [("q.fstrm", 2)]);
    rig.pass(1);
    assert_eq!(rig.next_turn(), Some(Duration::ZERO));
    rig.turn();
    assert_eq!(
        rig.files(),
        [("q.fstrm", 0), ("q.fstrm.20261124T010000Z", 2)]
    );
    assert_eq!(rig.next_turn(), None, "an empty file goes on");
    rig.pass(7200);
    rig.turn();
    rig.write();
    assert_eq!(rig.next_turn(), Some(Duration::ZERO));
    rig.pass(1);
    rig.write();
    assert_eq!(
        rig.files(),
        [
            ("q.fstrm", 1),
            ("q.fstrm.20261124T010000Z", 2),
            ("q.fstrm.20261124T030001Z", 1)
        ]
    );
}

#[test]
fn a_clock_that_is_set_back_ends_the_file_and_a_small_correction_does_not() {
    let mut rig = Rig::new("q.fstrm", "rotate-time=1h");
    rig.write();
    rig.pass(45 * 60);
    rig.write();
    rig.pass(-60);
    assert_eq!(rig.next_turn(), Some(Duration::from_secs(3600 + 30)));
    rig.write();
    let first = ("q.fstrm.20261124T010030Z", 1);
    assert_eq!(rig.files(), [("q.fstrm", 2), first]);
    rig.pass(-7 * 24 * 3600);
    assert_eq!(rig.next_turn(), Some(Duration::ZERO));
    rig.turn();
    rig.write();
    assert_eq!(
        rig.files(),
        [("q.fstrm", 1), ("q.fstrm.20261117T005930Z", 2), first]
    );
    assert_eq!(rig.next_turn(), Some(Duration::from_secs(30)));
}

#[test]
fn a_clock_that_is_set_back_does_not_put_off_the_next_attempt() {
    let mut rig = Rig::new("q.fstrm", "rotate-time=30s");
    rig.write();
    let obstacle = rig.path(".q.fstrm.next");
    fs::create_dir_all(obstacle.join("in-the-way")).expect("made");
    rig.pass(30);
    rig.write();
    assert_eq!(rig.counters.rotation_errors.load(Relaxed), 1);
    fs::remove_dir_all(&obstacle).expect("removed");
    rig.pass(-24 * 3600);
    rig.write();
    assert_eq!(rig.counters.rotations.load(Relaxed), 1);
}

#[test]
fn a_file_never_grows_beyond_its_size_and_names_never_collide() {
    // Head and foot have 6 bytes, messages 10.
    let mut rig = Rig::new("q.fstrm", "rotate-size=32");
    for _ in 0..7 {
        rig.write();
    }
    assert_eq!(
        rig.files(),
        [
            ("q.fstrm", 1),
            ("q.fstrm.20261124T001530Z", 2),
            ("q.fstrm.20261124T001530Z.1", 2),
            ("q.fstrm.20261124T001530Z.2", 2)
        ]
    );
    assert_eq!(rig.counters.rotations.load(Relaxed), 3);
}

#[test]
fn a_pattern_names_each_file_by_its_beginning() {
    let mut rig = Rig::new("q-%H%M%S.fstrm", "rotate-time=30s");
    rig.write();
    rig.pass(29);
    rig.write();
    rig.pass(1);
    rig.write();
    assert_eq!(rig.files(), [("q-001530.fstrm", 2), ("q-001600.fstrm", 1)]);
}

#[test]
fn the_oldest_are_deleted_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("q.fstrm.important"), "precious").expect("written");
    let mut rig = Rig::in_folder(folder, "q.fstrm", "rotate-time=1h,keep=2");
    for _ in 0..4 {
        rig.write();
        rig.pass(3600);
    }
    rig.write();
    let files = rig.names();
    assert_eq!(
        files,
        [
            "q.fstrm",
            "q.fstrm.20261124T031530Z",
            "q.fstrm.20261124T041530Z",
            "q.fstrm.important"
        ]
    );
}

#[test]
fn the_file_of_an_earlier_run_is_moved_aside_when_there_is_rotation() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("q.fstrm"), "earlier").expect("written");
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(START.unsigned_abs() - 60);
    File::options()
        .write(true)
        .open(folder.path().join("q.fstrm"))
        .and_then(|file| file.set_modified(changed))
        .expect("ours");
    let rig = Rig::in_folder(folder, "q.fstrm", "rotate-time=1h");
    let left = rig.folder.path().join("q.fstrm.20261124T001430Z");
    assert_eq!(fs::read(left).expect("there"), b"earlier");
    assert_eq!(rig.names().len(), 2);
}

#[test]
fn a_renamed_file_is_opened_anew_and_one_that_was_not_goes_on() {
    let mut rig = Rig::new("q.fstrm", "mode=0604");
    rig.write();
    rig.reopen();
    rig.write();
    assert_eq!(rig.files(), [("q.fstrm", 2)]);
    fs::rename(rig.path("q.fstrm"), rig.path("q.1")).expect("renamed");
    rig.write();
    rig.reopen();
    rig.write();
    assert_eq!(rig.files(), [("q.1", 3), ("q.fstrm", 1)]);
    let mode = fs::metadata(rig.path("q.fstrm")).expect("there").mode();
    assert_eq!(mode & 0o777, 0o604);

    // logrotate's `create` makes an empty file.
    fs::rename(rig.path("q.fstrm"), rig.path("q.2")).expect("renamed");
    fs::write(rig.path("q.fstrm"), "").expect("written");
    rig.reopen();
    rig.write();
    // This file is not empty.
    fs::rename(rig.path("q.fstrm"), rig.path("q.3")).expect("renamed");
    fs::write(rig.path("q.fstrm"), "precious").expect("written");
    rig.reopen();
    rig.write();
    let precious = rig.path("q.fstrm.20261124T001530Z");
    assert_eq!(fs::read(&precious).expect("there"), b"precious");
    fs::remove_file(precious).expect("there");
    assert_eq!(
        rig.files(),
        [("q.1", 3), ("q.2", 1), ("q.3", 1), ("q.fstrm", 1)]
    );
    assert_eq!(rig.counters.reopened.load(Relaxed), 3);
}

#[test]
fn a_file_that_cannot_be_opened_anew_goes_on_and_it_is_tried_again() {
    let mut rig = Rig::new("q.fstrm", "mode=0640");
    fs::rename(rig.path("q.fstrm"), rig.path("q.1")).expect("renamed");
    // A folder with that name cannot be moved to the name of a file.
    fs::create_dir(rig.path("q.fstrm")).expect("made");
    rig.reopen();
    rig.turn();
    assert_eq!(rig.counters.rotation_errors.load(Relaxed), 1);
    assert_eq!(rig.next_turn(), Some(Duration::from_secs(10)), "also empty");
    rig.write();
    fs::remove_dir(rig.path("q.fstrm")).expect("removed");
    rig.pass(9);
    rig.turn();
    assert_eq!(rig.files(), [("q.1", 1)], "not at once");
    rig.pass(1);
    assert_eq!(rig.next_turn(), Some(Duration::ZERO));
    rig.turn();
    rig.write();
    assert_eq!(rig.files(), [("q.1", 1), ("q.fstrm", 1)]);
    assert_eq!(rig.counters.reopened.load(Relaxed), 1);
    assert_eq!(rig.next_turn(), None);
}

#[test]
fn when_no_file_can_be_begun_the_old_one_goes_on_and_it_is_tried_again() {
    let mut rig = Rig::new("q.fstrm", "rotate-time=1m");
    rig.write();
    // A folder has the name of the next file: it can neither be removed nor replaced.
    fs::create_dir_all(rig.path(".q.fstrm.next/in-the-way")).expect("created");
    rig.pass(60);
    rig.write();
    assert_eq!(rig.counters.rotation_errors.load(Relaxed), 1);
    assert_eq!(rig.next_turn(), Some(Duration::from_secs(10)));
    rig.write();
    assert_eq!(
        rig.counters.rotation_errors.load(Relaxed),
        1,
        "not with every batch"
    );
    fs::remove_dir_all(rig.path(".q.fstrm.next")).expect("removed");
    rig.pass(10);
    rig.write();
    assert_eq!(
        rig.files(),
        [("q.fstrm", 1), ("q.fstrm.20261124T001640Z", 3)]
    );
}

#[test]
fn the_program_gets_each_complete_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("script");
    let list = folder.path().join("list");
    write_script(&script, &format!("echo \"$#:$1\" >> {}\n", list.display()));
    let options = format!("rotate-time=1h,exec={}", script.display());
    let mut rig = Rig::in_folder(folder, "q.fstrm", &options);
    for _ in 0..2 {
        rig.write();
        rig.pass(3600);
    }
    rig.write();
    let expected: String = ["q.fstrm.20261124T011530Z", "q.fstrm.20261124T021530Z"]
        .map(|name| format!("1:{}\n", rig.path(name).display()))
        .concat();
    while fs::read_to_string(&list).unwrap_or_default() != expected {
        assert_eq!(rig.counters.command_errors.load(Relaxed), 0);
        std::thread::yield_now();
    }
}

#[test]
fn an_old_file_is_deleted_when_the_program_is_done_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let [script, gate, copies] = ["script", "gate", "copies"].map(|name| folder.path().join(name));
    fs::create_dir(&copies).expect("made");
    let text = format!(
        "until [ -e {} ]; do sleep 0.01; done\ncp \"$1\" {}\n",
        gate.display(),
        copies.display()
    );
    write_script(&script, &text);
    let options = format!("rotate-time=1h,keep=0,exec={}", script.display());
    let mut rig = Rig::in_folder(folder, "q.fstrm", &options);
    for _ in 0..3 {
        rig.write();
        rig.pass(3600);
        rig.turn();
    }
    let complete = [
        "q.fstrm.20261124T011530Z",
        "q.fstrm.20261124T021530Z",
        "q.fstrm.20261124T031530Z",
    ];
    assert_eq!(rig.names()[2..5], complete);
    assert_eq!(rig.next_turn(), Some(LOOK));
    fs::write(gate, "").expect("written");
    let deadline = Instant::now() + Duration::from_mins(1);
    while rig.next_turn().is_some() {
        assert!(Instant::now() < deadline, "{:?}", rig.names());
        rig.turn();
        std::thread::yield_now();
    }
    assert_eq!(rig.names(), ["copies", "gate", "q.fstrm", "script"]);
    for name in complete {
        let copy = fs::read(copies.join(name)).expect("copied");
        assert_eq!(copy, [b"<head>", MESSAGE, b"<foot>"].concat());
    }
    assert_eq!(rig.counters.command_errors.load(Relaxed), 0);
    assert_eq!(rig.counters.rotation_errors.load(Relaxed), 0);
}

/// Another process writes the script. While other tests fork, a file written by this process may be
/// open in two processes and then cannot be executed.
fn write_script(path: &Path, text: &str) {
    let write = "printf '#!/bin/sh\\n%s' \"$1\" > \"$2\" && chmod 755 \"$2\"";
    let written = Command::new("sh")
        .args(["-c", write, "sh", text])
        .arg(path)
        .status();
    assert!(written.is_ok_and(|status| status.success()));
}

struct Rig {
    folder: tempfile::TempDir,
    now: Arc<Mutex<Timestamp>>,
    rotated: RotatedFiles,
    output_file: OutputFile<Descriptor>,
    counters: Arc<FileCounters>,
}

impl Rig {
    fn new(name: &str, options: &str) -> Self {
        Self::in_folder(tempfile::tempdir().expect("a folder"), name, options)
    }

    fn in_folder(folder: tempfile::TempDir, name: &str, options: &str) -> Self {
        let path = folder.path().join(name);
        let place = crate::sinks::sink::Place::Path(path.clone());
        let options = FileOptions::parse(Some(options), &place).expect("valid");
        let now = Arc::new(Mutex::new(Timestamp::from_second(START).expect("a time")));
        let names = Names::new(&path);
        let live = names
            .live(*now.lock().expect("no panic elsewhere"))
            .expect("a name");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&live)
            .expect("created");
        let frame = Frame {
            head: b"<head>".to_vec(),
            foot: b"<foot>".to_vec(),
            directory: None,
        };
        let clock = Arc::clone(&now);
        let counters = Arc::<FileCounters>::default();
        let (rotated, output_file) = RotatedFiles::begin(
            First { names, live, file },
            &options,
            Access::new(&options).expect("no names in it"),
            frame,
            Arc::new(move || *clock.lock().expect("no panic elsewhere")),
            Arc::clone(&counters),
        )
        .expect("begun");
        Self {
            folder,
            now,
            rotated,
            output_file,
            counters,
        }
    }

    fn pass(&mut self, seconds: i64) {
        *self.now.lock().expect("no panic elsewhere") += SignedDuration::from_secs(seconds);
    }

    fn write(&mut self) {
        let piece = Piece {
            bytes: MESSAGE,
            messages: 1,
            unfit: 0,
            ends: Ends::Frames,
        };
        self.rotated.turn(&mut self.output_file, MESSAGE.len());
        self.output_file.append(&piece).expect("room");
    }

    fn turn(&mut self) {
        self.rotated.turn(&mut self.output_file, 0);
    }

    fn reopen(&mut self) {
        self.rotated.reopen(&mut self.output_file);
    }

    fn next_turn(&self) -> Option<Duration> {
        self.rotated.next_turn(&self.output_file)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.path())
            .expect("there")
            .map(|entry| {
                entry
                    .expect("there")
                    .file_name()
                    .into_string()
                    .expect("ASCII")
            })
            .collect();
        names.sort();
        names
    }

    /// Returns all files with their numbers of messages. Each file must be complete.
    fn files(&self) -> Vec<(&'static str, usize)> {
        self.names()
            .into_iter()
            .map(|name| {
                let bytes = fs::read(self.path(&name)).expect("read");
                let inner = bytes
                    .strip_prefix(b"<head>")
                    .and_then(|bytes| bytes.strip_suffix(b"<foot>"))
                    .expect("complete");
                assert_eq!(inner, MESSAGE.repeat(inner.len() / MESSAGE.len()));
                (&*name.leak(), inner.len() / MESSAGE.len())
            })
            .collect()
    }
}
