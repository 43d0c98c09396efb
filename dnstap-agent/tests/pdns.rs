//! Passive DNS as a process: it is killed while it writes, runs twice on the same files, and gets input that it must
//! refuse.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use dnstap_pdns::{Retention, Store};
use dnstap_proto::{
    DnstapRef, MessageRef, Timestamp,
    frame_streams::{DNSTAP_CONTENT_TYPE, Writer},
    message::Type,
};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_dnstap-agent"))
}

fn pdns(arguments: &[&str]) -> Output {
    program()
        .arg("pdns")
        .args(arguments)
        .output()
        .expect("the agent starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes a file with a query and its response for each of `questions` questions. Two thirds of the questions repeat 50
/// names.
fn file(folder: &Path, name: &str, questions: u32) -> PathBuf {
    let mut frames = Vec::new();
    for nth in 0..questions {
        let name = if nth % 3 == 0 {
            format!("n{nth}")
        } else {
            format!("again{}", nth % 50)
        };
        let time = Timestamp {
            seconds: 1_700_000_000 + u64::from(nth),
            nanoseconds: nth,
        };
        let mut question = vec![u8::try_from(name.len()).expect("short")];
        question.extend(name.bytes());
        question.extend(b"\x07example\0\0\x01\0\x01");
        let [.., high, low] = nth.to_be_bytes();
        let query = [&[high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], &question[..]].concat();
        let answer = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];
        let response = [
            &[high, low, 0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0],
            &question[..],
            &answer,
        ]
        .concat();
        let common = |kind| MessageRef {
            response_address: Some(&[192, 0, 2, 53]),
            response_port: Some(53),
            query_zone: Some(b"\x07example\0"),
            query_time: Some(time),
            ..MessageRef::new(kind)
        };
        let query = MessageRef {
            query_message: Some(&query),
            ..common(Type::ResolverQuery)
        };
        let response = MessageRef {
            response_message: Some(&response),
            response_time: Some(time),
            ..common(Type::ResolverResponse)
        };
        for message in [query, response] {
            DnstapRef::new(message).append_frame(&mut frames);
        }
    }
    let path = folder.join(name);
    let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).expect("a file");
    writer.write_frames(&frames).expect("written");
    fs::write(&path, writer.finish().expect("finished")).expect("written");
    path
}

/// Returns everything in a store, in the order of the store.
fn all(db: &str) -> String {
    let asked = pdns(&["query", "--db", db, "-r", "*.", "-l", "0", "-p", "json"]);
    assert!(asked.status.success(), "{asked:?}");
    stdout(&asked)
}

/// Bytes that a process writes before it is killed. A new store without data takes less.
const WRITTEN: u64 = 32 << 10;

/// Returns the bytes that the files in a folder take on disk. A file of the store may be longer than that.
fn disk_use(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        // A file may be removed at any time.
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, found)| {
            if found.is_dir() {
                disk_use(&path)
            } else {
                found.blocks() * 512
            }
        })
        .sum()
}

#[test]
fn killed_at_any_moment_it_goes_on_where_it_was_and_counts_nothing_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let path = file(folder.path(), "frames.fstrm", 30_000)
        .display()
        .to_string();
    let whole = pdns(&["collect", "--db", &at("whole"), &path]);
    assert!(whole.status.success(), "{whole:?}");
    let truth = all(&at("whole"));
    assert_eq!(truth.lines().count(), 10_000 + 50);
    let db = at("killed");
    let collect = [
        "collect",
        "--db",
        &db,
        "--memory",
        "1M",
        "--write-every",
        "0.01s",
        &path,
    ];
    let (mut killed, mut at_work, mut last) = (0, 0, 0);
    for time in 0..50 {
        let mut child = program()
            .arg("pdns")
            .args(collect)
            .stderr(Stdio::null())
            .spawn()
            .expect("the agent starts");
        if time % 2 == 0 {
            // However slow the machine is, some data is in the store.
            let enough = disk_use(Path::new(&db)) + WRITTEN;
            while child.try_wait().expect("a child").is_none() && disk_use(Path::new(&db)) < enough
            {
                thread::sleep(Duration::from_millis(1));
            }
        } else {
            thread::sleep(Duration::from_millis(3 + time * 7 % 120));
        }
        let ended = child.try_wait().expect("a child");
        killed += u32::from(ended.is_none());
        child.kill().expect("a child");
        child.wait().expect("a child");
        // No RRset may disappear. The comparison at the end shows that nothing was counted twice.
        if Path::new(&db).join("version").exists() {
            let lines = all(&db);
            let count = lines.lines().count();
            assert!(count >= last, "{count} after {last}");
            at_work += u32::from(count > last);
            last = count;
        }
    }
    assert!(
        killed >= 5 && at_work >= 2,
        "killed {killed} times, at work {at_work} times"
    );
    let done = pdns(&collect);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(all(&db), truth);
}

#[test]
fn a_file_is_known_again_by_its_frames() {
    let folder = tempfile::tempdir().expect("a folder");
    let db = folder.path().join("db").display().to_string();
    let path = file(folder.path(), "a.fstrm", 300);
    let bytes = fs::read(&path).expect("read");
    // The file is still growing: it ends within a frame.
    let half = folder.path().join("half.fstrm");
    fs::write(&half, &bytes[..bytes.len() / 2]).expect("written");
    let collect = |path: &Path| pdns(&["collect", "--db", &db, &path.display().to_string()]);
    assert_eq!(collect(&half).status.code(), Some(65));
    let some = all(&db);
    assert!(collect(&path).status.success());
    let truth = all(&db);
    assert!(truth.lines().count() > some.lines().count());
    // The same file again, under another name, and compressed.
    let moved = folder.path().join("b.fstrm");
    fs::copy(&path, &moved).expect("copied");
    let compressed = folder.path().join("b.zst");
    fs::write(
        &compressed,
        zstd::encode_all(&bytes[..], 1).expect("compressed"),
    )
    .expect("written");
    for path in [&path, &moved, &compressed, &half] {
        collect(path);
        assert_eq!(all(&db), truth, "{}", path.display());
    }
    let twice = path.display().to_string();
    assert!(
        pdns(&["collect", "--db", &db, &twice, &twice])
            .status
            .success()
    );
    assert_eq!(all(&db), truth);
    // Another file that begins in the same way is reported and left out.
    let mut other = bytes.clone();
    let end = other.len() - 20;
    other[end] ^= 1;
    fs::write(&moved, other).expect("written");
    let done = collect(&moved);
    assert!(
        done.status.code() == Some(65) && stderr(&done).contains("--again"),
        "{done:?}"
    );
    assert_eq!(all(&db), truth);
    let again = pdns(&[
        "collect",
        "--db",
        &db,
        "--again",
        &path.display().to_string(),
    ]);
    assert!(again.status.success() && all(&db) != truth, "{again:?}");
}

#[test]
fn new_rrsets_are_told_once_with_their_registered_domain() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let path = file(folder.path(), "a.fstrm", 30).display().to_string();
    let told = pdns(&["collect", "--db", &at("db"), "--new", "-", &path]);
    let lines: Vec<serde_json::Value> = stdout(&told)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 10 + 20, "{told:?}");
    // `example` is not a public suffix.
    assert!(
        lines
            .iter()
            .all(|line| line["bailiwick"] == "example" && line["domain"].is_null())
    );
    let again = pdns(&["collect", "--db", &at("db"), "--again", "--new", "-", &path]);
    assert_eq!(stdout(&again), "");
}

#[test]
fn what_cannot_be_is_said_with_its_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let path = file(folder.path(), "a.fstrm", 3000).display().to_string();
    let expect = |arguments: &[&str], code: i32, text: &str| {
        let done = pdns(arguments);
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {done:?}");
        assert!(stderr(&done).contains(text), "{arguments:?}: {done:?}");
    };
    expect(&["stats", "--db", &at("none")], 66, "there is no store");
    expect(
        &[
            "collect",
            "--db",
            &folder.path().display().to_string(),
            &path,
        ],
        73,
        "not empty",
    );
    expect(
        &["query", "--db", &at("none"), "-r", "a..b"],
        64,
        "a label is empty",
    );
    assert!(
        pdns(&["collect", "--db", &at("db"), &path])
            .status
            .success()
    );
    // Another process has the store open.
    let store = Store::open(Path::new(&at("db"))).expect("the store");
    expect(
        &["query", "--db", &at("db"), "-r", "a.example"],
        66,
        "another process",
    );
    expect(
        &["collect", "--db", &at("db"), &path],
        66,
        "another process",
    );
    store.compact(Retention::default()).expect("compacted");
    drop(store);
    // One byte of a table is wrong.
    let mut tables: Vec<PathBuf> = Vec::new();
    let mut folders = vec![PathBuf::from(at("db"))];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.components().any(|part| part.as_os_str() == "tables") {
                tables.push(path);
            }
        }
    }
    assert!(!tables.is_empty());
    for table in &tables {
        let bytes = fs::read(table).expect("read");
        for at_byte in (0..bytes.len()).step_by(bytes.len() / 20 + 1) {
            let mut damaged = bytes.clone();
            damaged[at_byte] ^= 0x55;
            fs::write(table, damaged).expect("written");
            let done = pdns(&["stats", "--db", &at("db")]);
            // Damage is either found, or is in a part that is not read. There is never a panic.
            let code = done.status.code();
            assert!(
                matches!(code, Some(0 | 65)),
                "byte {at_byte} of {}: {done:?}",
                table.display()
            );
        }
        fs::write(table, bytes).expect("written");
    }
    assert!(pdns(&["stats", "--db", &at("db")]).status.success());
}

#[test]
fn stores_are_exchanged_by_lines_and_merged_in_any_order_and_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let run = |arguments: &[&str]| {
        let done = pdns(arguments);
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        stdout(&done)
    };
    let one = file(folder.path(), "one.fstrm", 600).display().to_string();
    let other = file(folder.path(), "other.fstrm", 900)
        .display()
        .to_string();
    run(&["collect", "--db", &at("one"), &one]);
    run(&["collect", "--db", &at("other"), &other]);
    run(&["merge", "--db", &at("left"), &at("one"), &at("other")]);
    run(&["merge", "--db", &at("right"), &at("other")]);
    run(&[
        "merge",
        "--db",
        &at("right"),
        &at("one"),
        &at("other"),
        &at("left"),
    ]);
    let truth = all(&at("left"));
    assert_eq!(all(&at("right")), truth);
    let count = |lines: &str| -> u64 {
        let object = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
        lines
            .lines()
            .map(|line| object(line)["count"].as_u64().expect("a number"))
            .sum()
    };
    assert_eq!(count(&truth), 600 + 900);
    // The same by lines, also of merged stores, and more than once.
    for name in ["one", "other", "left"] {
        fs::write(
            at(&format!("{name}.json")),
            run(&["export", "--db", &at(name)]),
        )
        .expect("written");
    }
    for names in [["left", "one", "other"], ["other", "left", "one"]] {
        let db = at(&names.concat());
        for name in names.iter().chain(&names) {
            run(&["import", "--db", &db, &at(&format!("{name}.json"))]);
        }
        assert_eq!(all(&db), truth);
    }
    // Lines of another program have no `sensor_id`. Each file counts once, under any name.
    let line = r#"{"rrname":"x.example","rrtype":"A","rdata":["192.0.2.1"],"time_first":5,"time_last":6,"count":7}"#;
    for name in ["a.json", "b.json"] {
        fs::write(at(name), format!("{line}\nno line\n")).expect("written");
        let done = pdns(&["import", "--db", &at("foreign"), &at(name)]);
        assert_eq!(done.status.code(), Some(65), "{done:?}");
        assert!(
            stderr(&done).contains("line 2 left out: no JSON object"),
            "{done:?}"
        );
    }
    assert_eq!(count(&all(&at("foreign"))), 7);
}

/// A line of JSON for `pdns import`.
fn line(fields: &str) -> String {
    format!(
        r#"{{"rrname":"a.example","rrtype":"A","rdata":["192.0.2.1"],"time_first":5,"time_last":6{fields}}}"#
    ) + "\n"
}

#[test]
fn what_is_not_there_leaves_no_empty_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("a.json"), line("")).expect("written");
    let imported = pdns(&["import", "--db", &at("there"), &at("a.json")]);
    assert!(imported.status.success(), "{imported:?}");
    for arguments in [
        &["merge", "--db", &at("db"), &at("none")][..],
        &["merge", "--db", &at("db"), &at("there"), &at("none")],
        &["import", "--db", &at("db"), &at("none")],
    ] {
        let done = pdns(arguments);
        assert_eq!(done.status.code(), Some(66), "{arguments:?}: {done:?}");
        assert!(!Path::new(&at("db")).exists(), "{arguments:?}");
    }
}

#[test]
fn answers_that_are_cut_off_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let lines: String = (0..3)
        .map(|nth| {
            line(&format!(r#","count":{}"#, nth + 1))
                .replace("a.example", &format!("a{nth}.example"))
        })
        .collect();
    fs::write(at("a.json"), lines).expect("written");
    let imported = pdns(&["import", "--db", &at("db"), &at("a.json")]);
    assert!(imported.status.success(), "{imported:?}");
    let ask = |more: &[&str]| {
        let db = at("db");
        let start = ["query", "--db", &db, "-r", "*.example", "-p", "json"];
        let done = pdns(&[&start[..], more].concat());
        assert!(done.status.success(), "{done:?}");
        (stdout(&done).lines().count(), stderr(&done))
    };
    let (count, told) = ask(&["-l", "2"]);
    assert_eq!(count, 2);
    assert!(told.contains("more than 2 answers; -l 0"), "{told}");
    let (_, told) = ask(&["-l", "2", "-S", "-k", "count", "-L", "1"]);
    assert!(told.contains("more than 2 answers"), "{told}");
    for all in [
        &["-l", "3"][..],
        &["-l", "0"],
        &[],
        &["-l", "2", "-O", "1"],
        &["-L", "1"],
    ] {
        assert_eq!(ask(all).1, "", "{all:?}");
    }
}

#[test]
fn a_pipe_is_imported_under_a_name_that_is_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let import = |more: &[&str]| {
        let db = at("db");
        let start = ["pdns", "import", "--db", &db];
        let mut child = program()
            .args(start)
            .args(more)
            .arg("/dev/stdin")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        // The child may end before it reads.
        let written = child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(line("").as_bytes());
        drop(written);
        child.wait_with_output().expect("a child")
    };
    let done = import(&[]);
    assert_eq!(done.status.code(), Some(66), "{done:?}");
    assert!(stderr(&done).contains("add --origin"), "{done:?}");
    let done = import(&["--origin", "x"]);
    assert!(done.status.success(), "{done:?}");
}

/// 200 lines, each with as many records as a line may have. When 10,000 such lines were merged at once, a file took
/// gigabytes of memory.
#[test]
fn lines_of_many_records_are_imported_in_little_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let data: Vec<String> = (0..5_900).map(|nth| format!("\"{nth}\"")).collect();
    let data = format!("[{}]", data.join(","));
    let mut lines = String::new();
    for nth in 0..200 {
        let line = line("").replace(r#"["192.0.2.1"]"#, &data);
        lines += &line
            .replace("a.example", &format!("a{nth}.example"))
            .replace("\"A\"", "\"TXT\"");
    }
    fs::write(at("a.json"), lines).expect("written");
    let db = at("db");
    let limited = r#"ulimit -v "$1"; shift; exec "$@""#;
    let done = Command::new("sh")
        .args([
            "-c",
            limited,
            "sh",
            "400000",
            env!("CARGO_BIN_EXE_dnstap-agent"),
        ])
        .args(["pdns", "import", "--db", &db, &at("a.json")])
        .output()
        .expect("a shell");
    assert!(done.status.success(), "{done:?}");
}
