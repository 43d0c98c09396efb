//! Files from others, compressed or not: reading ends, in any pieces, and with the same frames and faults. A file that is followed has
//! the same frames as one that is read once.
//!
//! What cannot be decompressed from some place on is less strict: how much comes out before that place depends on the pieces.
//!
//! The input is a byte that says what the rest is: a file as it is, or Frame Streams that are compressed here, in as many zstd frames as
//! the next byte says. Then the rest.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use dnstap_agent::sources::{
    Item, Source,
    file::{Fault, Files, Followed},
};

use dnstap_proto::frame_streams::ReadError;

use crate::input::Input;

/// Longest data frame: small, so that one too long is found soon.
const LIMIT: u32 = 2_000;

/// Runs the target.
///
/// # Panics
///
/// If something does not hold, or there is no temporary file.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (is_compressed_here, size) = (input.byte() % 2 == 1, input.byte());
    let content = if is_compressed_here {
        compressed(input.rest(), size)
    } else {
        input.rest().to_vec()
    };
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&content).expect("room for it");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));

    let at_once = read(&path, usize::MAX);
    let in_pieces = read(&path, usize::from(size).max(1));
    let is_damaged = at_once.iter().chain(&in_pieces).any(is_damage);
    if is_damaged {
        let pairs = frames(&at_once).zip(frames(&in_pieces));
        pairs.for_each(|(one, other)| assert_eq!(one, other));
    } else {
        assert_eq!(in_pieces, at_once);
    }
    // A plain stream behind such a frame is read, and not followed.
    let is_skippable = matches!(content[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    if is_damaged || is_skippable {
        return;
    }
    let followed = follow(&path);
    if !at_once.iter().chain(&followed).any(is_refusal) {
        assert!(frames(&followed).eq(frames(&at_once)));
    }
}

/// In zstd frames of so many bytes each.
fn compressed(stream: &[u8], size: u8) -> Vec<u8> {
    let pieces = stream.chunks(usize::from(size).max(1) * 8);
    let pieces = pieces.map(|piece| zstd::encode_all(piece, 1).expect("memory"));
    pieces.flatten().collect()
}

/// What a source hands over.
#[derive(Debug, PartialEq)]
enum Seen {
    /// Its place, and what it holds.
    Frame(u64, Vec<u8>),
    /// In words.
    Fault(String),
    /// It cannot be decompressed from some place on.
    Damage,
    /// The file cannot be read, or not be followed.
    Refusal,
}

fn frames(seen: &[Seen]) -> impl Iterator<Item = &Seen> {
    seen.iter().filter(|seen| matches!(seen, Seen::Frame(..)))
}

const fn is_damage(seen: &Seen) -> bool {
    matches!(seen, Seen::Damage)
}

const fn is_refusal(seen: &Seen) -> bool {
    matches!(seen, Seen::Refusal)
}

/// Reads the file once, so many bytes at a time.
fn read(path: &Path, piece: usize) -> Vec<Seen> {
    let opened = (path.to_path_buf(), File::open(path).map_err(Into::into));
    let through = |file| Box::new(Pieces(file, piece)) as Box<dyn Read>;
    let mut files = Files::new([opened].into_iter(), through, LIMIT);
    let mut seen = Vec::new();
    while !files.is_over() {
        next(&mut files, &mut seen);
    }
    seen
}

/// Follows the file, which stays as it is, to its end.
fn follow(path: &Path) -> Vec<Seen> {
    let mut followed = Followed::open(path, LIMIT).expect("it is open already");
    let mut seen = Vec::new();
    while !followed.is_over() {
        let (before, was_waiting) = (seen.len(), followed.is_waiting());
        next(&mut followed, &mut seen);
        if was_waiting && followed.is_waiting() && seen.len() == before {
            break;
        }
    }
    seen
}

fn next(source: &mut impl Source, seen: &mut Vec<Seen>) {
    source.drain(false, &mut |item| match item {
        Item::Row(_, row) => {
            let frames = row.payloads();
            seen.extend(frames.map(|(place, payload)| Seen::Frame(place, payload.to_vec())));
        }
        Item::Fault(_, Fault::Unread(_)) => seen.push(Seen::Refusal),
        Item::Fault(
            _,
            Fault::Damaged {
                error: ReadError::Io { source, .. },
                ..
            },
        ) if source.kind() == ErrorKind::InvalidData => seen.push(Seen::Damage),
        Item::Fault(_, fault) => seen.push(Seen::Fault(format!("{fault:?}"))),
        other => panic!("no file has {other:?}"),
    });
}

/// A file that gives at most so many bytes at a time.
struct Pieces(File, usize);

impl Read for Pieces {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let length = room.len().min(self.1);
        self.0.read(&mut room[..length])
    }
}
