use std::{fs, path::Path};

use dnstap_proto::{
    DnstapRef, MessageRef,
    frame_streams::{DNSTAP_CONTENT_TYPE, Writer},
    message::Type,
};
use rstest::rstest;

use super::*;
use crate::{
    cli::{Frames, Read as Options, YamlStyle},
    formats::Content,
    select::Select,
};

const LINE: &str = "- CQ -:- -> -:- - - no DNS message\n";
/// Sizes of START and of each frame: length, type CQ in a message, type MESSAGE.
const START: u64 = 42;
const FRAME: u64 = 4 + 6;

#[test]
fn whole_files_are_printed_one_after_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (
        written(folder.path(), "one", &[true; 2]),
        written(folder.path(), "two", &[true; 3]),
    );
    let (outcome, output, warnings) = printed(&args(vec![one, two], false));
    assert_eq!(
        outcome.expect("readable"),
        Outcome {
            messages: 5,
            selected: 5,
            ..Outcome::default()
        }
    );
    assert_eq!(
        (output.as_str(), warnings.as_str()),
        (LINE.repeat(5).as_str(), "")
    );
}

#[rstest]
#[case(0, 2)]
#[case(5, 2)]
#[case(FRAME - 1, 2)]
fn a_cut_file_is_printed_up_to_the_cut_and_the_offset_is_told(
    #[case] rest: u64,
    #[case] whole: u64,
) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = written(folder.path(), "cut", &[true; 3]);
    let offset = START + whole * FRAME;
    File::options()
        .write(true)
        .open(&file)
        .and_then(|opened| opened.set_len(offset + rest))
        .expect("cut");
    let (outcome, output, warnings) = printed(&args(vec![file.clone()], false));
    let outcome = outcome.expect("readable");
    assert_eq!(outcome.damaged, [Damage::Truncated { file, offset }]);
    assert!(outcome.exit() == Exit::Data);
    assert_eq!(output, LINE.repeat(2));
    assert!(
        warnings.contains(&format!("cut off at byte {offset}")),
        "{warnings}"
    );
}

#[test]
fn a_broken_frame_is_told_with_its_offset_and_skipped() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = written(folder.path(), "broken", &[true, false, true]);
    let (outcome, output, warnings) = printed(&args(vec![file], false));
    assert_eq!(
        outcome.expect("readable"),
        Outcome {
            messages: 2,
            selected: 2,
            broken: 1,
            ..Outcome::default()
        }
    );
    assert_eq!(output, LINE.repeat(2));
    assert!(
        warnings.contains(&format!("the frame at byte {} (3 bytes)", START + FRAME)),
        "{warnings}"
    );
}

#[test]
fn of_many_broken_frames_the_first_are_told_and_the_number_of_all() {
    let folder = tempfile::tempdir().expect("a folder");
    for (broken, lines) in [(100, 101), (250, 102)] {
        let file = written(folder.path(), "broken", &vec![false; broken]);
        let (outcome, _, warnings) = printed(&args(vec![file], false));
        assert_eq!(outcome.expect("readable").broken, broken as u64);
        assert_eq!(warnings.lines().count(), lines, "{warnings}");
        let all = format!("{broken} frames were skipped in all");
        assert_eq!(warnings.contains(&all), broken > 100);
    }
}

#[test]
fn only_what_is_asked_for_is_printed_and_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = written(folder.path(), "file", &[true, false, true]);
    let mut args = args(vec![file], false);
    args.select.only = vec!["client-response".parse().expect("a type")];
    let (outcome, output, _) = printed(&args);
    assert_eq!(
        outcome.expect("readable"),
        Outcome {
            messages: 2,
            broken: 1,
            ..Outcome::default()
        }
    );
    assert_eq!(output, "");
    args.count = true;
    assert_eq!(printed(&args).1, "total 0\n");
}

#[rstest]
#[case::whole(0, 3)]
#[case::cut(16, 2)]
fn compressed_files_are_read_as_what_was_compressed(#[case] cut: usize, #[case] whole: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = fs::read(written(folder.path(), "plain", &[true; 3])).expect("read");
    // Compressed in two pieces: the last one has the third message and the end.
    let end = usize::try_from(START + 2 * FRAME).expect("small");
    let mut pieces = [&plain[..end], &plain[end..]]
        .map(|piece| zstd::encode_all(piece, 1).expect("memory"))
        .concat();
    pieces.truncate(pieces.len() - cut);
    let file = folder.path().join("file.zst");
    fs::write(&file, pieces).expect("written");
    let (outcome, output, warnings) = printed(&args(vec![file.clone()], false));
    let outcome = outcome.expect("readable");
    assert_eq!(output, LINE.repeat(usize::try_from(whole).expect("small")));
    if cut == 0 {
        assert!(outcome.exit() == Exit::Ok, "{warnings}");
    } else {
        let offset = START + whole * FRAME;
        assert_eq!(outcome.damaged, [Damage::Truncated { file, offset }]);
        assert!(warnings.contains("(decompressed)"), "{warnings}");
    }
}

#[test]
fn streams_and_compressed_members_behind_each_other_are_all_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = fs::read(written(folder.path(), "plain", &[true; 3])).expect("read");
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).expect("memory");
    let skippable = b"\x50\x2a\x4d\x18\x02\0\0\0ok";
    for bytes in [
        plain.repeat(2),
        gzip(&plain).repeat(2),
        gzip(&plain.repeat(2)),
        [
            &skippable[..],
            &zstd(&plain),
            skippable,
            &zstd(&plain),
            skippable,
        ]
        .concat(),
        // The first writer died, so its STOP is missing.
        [&plain[..plain.len() - 12], &plain].concat(),
    ] {
        let file = folder.path().join("file.txt");
        fs::write(&file, bytes).expect("written");
        let (outcome, output, warnings) = printed(&args(vec![file], false));
        assert_eq!((output, warnings.as_str()), (LINE.repeat(6), ""));
        assert_eq!(outcome.expect("readable").exit(), Exit::Ok);
    }
}

#[test]
fn a_frame_beyond_the_limit_is_told_and_those_behind_it_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    let mut bytes = fs::read(written(folder.path(), "plain", &[true; 2])).expect("read");
    // An unknown field of 2,000,000 bytes, which is more than fstrm accepts.
    let mut long = vec![0xa2, 0x06, 0x80, 0x89, 0x7a];
    long.resize(2_000_005, 7);
    let mut frame = u32::try_from(long.len())
        .expect("small")
        .to_be_bytes()
        .to_vec();
    frame.extend(long);
    let at = usize::try_from(START + FRAME).expect("small");
    bytes.splice(at..at, frame);
    fs::write(&file, bytes).expect("written");
    let mut args = args(vec![file], false);
    args.count = true;
    assert_eq!(printed(&args).1, "CLIENT_QUERY 2\nother 1\ntotal 3\n");
    args.frames.max_frame = Some(1 << 20);
    let (outcome, output, warnings) = printed(&args);
    assert_eq!(output, "CLIENT_QUERY 2\ntotal 2\n");
    let told = format!("the frame at byte {at}: data frame of 2000005 bytes");
    assert!(warnings.contains(&told), "{warnings}");
    let outcome = outcome.expect("readable");
    assert_eq!((outcome.long, outcome.broken), (1, 0));
    assert_eq!(outcome.exit(), Exit::Data);
}

#[test]
fn a_wrong_field_costs_that_field_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    // Messages of type CLIENT_QUERY: a policy whose type is "\xe9"; a port of 64 bits; the type as
    // a string.
    let messages: [&[u8]; 3] = [
        b"\x08\x05\x7a\x03\x0a\x01\xe9",
        b"\x08\x05\x31\x01\x01\x01\x01\x01\x01\x01\x01",
        b"\x0a\x02CQ",
    ];
    let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).expect("memory");
    for message in messages {
        let length = u8::try_from(message.len()).expect("small");
        let payload = [&[0x72, length][..], message, &[0x78, 1]].concat();
        writer.write_frame(&payload).expect("memory");
    }
    let written = writer.finish().expect("memory");
    fs::write(&file, &written).expect("written");
    let mut args = args(vec![file], false);
    let (outcome, output, _) = printed(&args);
    assert_eq!(outcome.expect("readable").exit(), Exit::Ok);
    assert_eq!(output, LINE.repeat(2) + &LINE.replace("CQ", "-"));
    args.format = Content::Json;
    let output = printed(&args).1;
    assert!(!output.contains("AUTH_QUERY"), "{output}");
    args.format = Content::Dnstap;
    let mut output = Vec::new();
    print(&args, false, &mut output, &mut Vec::new()).expect("readable");
    assert_eq!(output, written);
    args.format = Content::Text;
    args.count = true;
    assert_eq!(printed(&args).1, "CLIENT_QUERY 2\nother 1\ntotal 3\n");
}

#[test]
fn of_several_files_those_that_are_there_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing");
    let files = vec![
        missing.clone(),
        written(folder.path(), "one", &[true, false]),
        folder.path().to_path_buf(),
        written(folder.path(), "two", &[true]),
    ];
    let (outcome, output, warnings) = printed(&args(files, false));
    let outcome = outcome.expect("some are readable");
    assert_eq!(output, LINE.repeat(2));
    assert_eq!(
        outcome.unread,
        [missing.clone(), folder.path().to_path_buf()]
    );
    assert_eq!((outcome.broken, outcome.exit()), (1, Exit::NoInput));
    assert!(
        warnings.contains(&format!("cannot open {}", missing.display())),
        "{warnings}"
    );
    assert!(warnings.contains("Is a directory"), "{warnings}");
}

#[test]
fn dnstap_comes_out_as_it_went_in_and_packets_have_no_messages_without_dns() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = written(folder.path(), "file", &[true; 3]);
    let mut args = args(vec![file.clone(), file.clone()], false);
    args.format = Content::Dnstap;
    let mut output = Vec::new();
    let outcome = print(&args, false, &mut output, &mut Vec::new()).expect("readable");
    assert!(outcome.exit() == Exit::Ok);
    let both = folder.path().join("both");
    fs::write(&both, &output).expect("written");
    args.files = vec![both];
    args.format = Content::Text;
    assert_eq!(printed(&args).1, LINE.repeat(6));
    args.format = Content::Pcap;
    let mut output = Vec::new();
    let outcome = print(&args, false, &mut output, &mut Vec::new()).expect("readable");
    assert_eq!(
        (outcome.unfit, output.as_slice()),
        (6, &crate::formats::pcap::FILE_HEADER[..])
    );
}

#[test]
fn another_kind_of_file_is_told_and_the_next_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = folder.path().join("other");
    fs::write(&other, "zone file").expect("written");
    let good = written(folder.path(), "good", &[true]);
    let (outcome, output, warnings) = printed(&args(vec![other.clone(), good], false));
    assert_eq!(
        outcome.expect("readable").damaged,
        [Damage::Malformed {
            file: other,
            offset: 0
        }]
    );
    assert_eq!(output, LINE);
    assert!(warnings.contains("not a Frame Streams file"), "{warnings}");
}

#[test]
fn a_name_moves_no_cursor() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("a\u{1b}[2J\nb");
    let error = printed(&args(vec![missing], false)).0.expect_err("missing");
    assert!(
        format!("{error:#}").contains("a\\u{1b}[2J\\nb"),
        "{error:#}"
    );
    let file = written(folder.path(), "c\u{7}", &[false]);
    let (_, _, warnings) = printed(&args(vec![file], false));
    assert!(
        warnings.contains("c\\u{7}: skipped the frame"),
        "{warnings}"
    );
}

#[test]
fn the_content_type_of_a_file_is_escaped() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    let other = Writer::new(Vec::new(), b"\x1b\xc3\xa9\"").and_then(Writer::finish);
    fs::write(&file, other.expect("memory")).expect("written");
    let (_, _, warnings) = printed(&args(vec![file], false));
    let told = r#"content type is "\x1b\xc3\xa9\"", expected "protobuf:dnstap.Dnstap""#;
    assert!(warnings.contains(told), "{warnings}");
}

#[test]
fn what_contradicts_itself_is_refused_with_a_way_out() {
    let mut styled = args(vec!["file".into()], false);
    styled.yaml_style = Some(YamlStyle::Bind);
    let mut several = args(vec!["one".into(), "two".into()], false);
    several.follow = true;
    several.yaml_style = Some(YamlStyle::Bind);
    for (args, remedies) in [
        (styled, &["--format yaml"][..]),
        (several, &["name one file", "--format yaml"]),
    ] {
        let mistakes = args.mistakes();
        assert_eq!(mistakes.len(), remedies.len());
        for (mistake, remedy) in mistakes.iter().zip(remedies) {
            assert!(mistake.contains(remedy), "{mistake}");
        }
    }
}

#[test]
fn counts_are_by_type() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = written(folder.path(), "file", &[true; 3]);
    let (_, output, _) = printed(&args(vec![file], true));
    assert_eq!(output, "CLIENT_QUERY 3\ntotal 3\n");
}

#[test]
fn a_missing_file_is_an_error_with_its_own_exit_code() {
    let (outcome, _, _) = printed(&args(vec!["/no/such/file".into()], false));
    let error = outcome.expect_err("not there");
    assert_eq!(Exit::of(&error), Exit::NoInput);
    assert!(
        format!("{error:#}").contains("cannot open /no/such/file: No such file"),
        "{error:#}"
    );
}

#[rstest]
#[case(ErrorKind::BrokenPipe, true)]
#[case(ErrorKind::StorageFull, false)]
fn a_reader_that_went_away_is_a_quiet_end_and_a_full_disk_is_not(
    #[case] kind: ErrorKind,
    #[case] quiet: bool,
) {
    struct Failing(ErrorKind);
    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = written(folder.path(), "file", &[true; 3]);
    match print(
        &args(vec![file], false),
        false,
        &mut Failing(kind),
        &mut Vec::new(),
    ) {
        Ok(outcome) => assert!(quiet && outcome.output_closed && outcome.exit() == Exit::Ok),
        Err(error) => assert!(!quiet && Exit::of(&error) == Exit::Output, "{error:#}"),
    }
}

/// Writes a file with a message (true) or other bytes (false) in each frame.
fn written(folder: &Path, name: &str, frames: &[bool]) -> PathBuf {
    let file = folder.join(name);
    let mut writer =
        Writer::new(File::create(&file).expect("created"), DNSTAP_CONTENT_TYPE).expect("written");
    for good in frames {
        let mut payload = Vec::new();
        let message = MessageRef::new(Type::ClientQuery);
        DnstapRef {
            identity: None,
            version: None,
            extra: None,
            message,
        }
        .encode(&mut payload);
        writer
            .write_frame(if *good { &payload } else { b"\xff\xff\xff" })
            .expect("written");
    }
    writer.finish().expect("written");
    file
}

fn args(files: Vec<PathBuf>, count: bool) -> Options {
    Options {
        files,
        format: Content::Text,
        count,
        follow: false,
        show_identity: false,
        yaml_style: None,
        colour: ColorChoice::Auto,
        frames: Frames::default(),
        select: Select::default(),
    }
}

fn printed(args: &Options) -> (Result<Outcome>, String, String) {
    let (mut output, mut warnings) = (Vec::new(), Vec::new());
    let outcome = print(args, false, &mut output, &mut warnings);
    (
        outcome,
        String::from_utf8(output).expect("ASCII"),
        String::from_utf8(warnings).expect("ASCII"),
    )
}
