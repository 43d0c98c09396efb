//! Compares the public API with the listing in `public-api.txt`, and tells which version a change of it needs.
//!
//! This does not use `cargo-semver-checks` or `cargo-public-api`: they take minutes to install, and need rustdoc's
//! JSON, which is unstable and differs between toolchains. This test reads the sources with `syn`, which the build has
//! anyway, in milliseconds on any toolchain.
//!
//! Every `pub` item of the sources is in the public API, because the lint `unreachable_pub` refuses any other `pub`. A
//! private module is left out of the path: its items are exported from its parent. The listing does not show auto
//! traits ([`types_stay_sendable`] checks those) and the behaviour of functions.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod listing;

use std::{collections::BTreeSet, env, fs, path::Path};

use listing::{Lines, PRIVATE, lines};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
const GENERATED: &str = include_str!(concat!(env!("OUT_DIR"), "/dnstap.rs"));
const LISTING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/public-api.txt");
const COMMAND: &str = "DNSTAP_PUBLIC_API=write cargo test -p dnstap-proto --test public_api";

#[test]
fn the_sources_export_what_the_listing_says() {
    let crate_root = fs::read_to_string(format!("{SOURCES}/lib.rs")).unwrap();
    let now = lines(&[&crate_root, GENERATED], Path::new(SOURCES));

    if env::var("DNSTAP_PUBLIC_API").is_ok_and(|what| what == "write") {
        let lines: Vec<_> = now.keys().map(String::as_str).collect();
        let version = env!("CARGO_PKG_VERSION");
        let text = format!("dnstap-proto {version}\n\n{}\n", lines.join("\n"));
        fs::write(LISTING, text).unwrap();
    }
    let listing = fs::read_to_string(LISTING).unwrap();
    let (head, lines) = listing.split_once("\n\n").unwrap();
    let listed = head.strip_prefix("dnstap-proto ").unwrap();
    let before = lines.lines().map(ToOwned::to_owned).collect();
    let change = Change::between(&before, &now);
    if let Some(breaks) = change.breaks {
        panic!(
            "the public API differs from public-api.txt, which has that of version {listed}:\n\n{}\n\n\
             This {}. The next release has to be {} or later; Cargo.toml has {}.\n\
             If the change is meant, raise the version there (unless {listed} was never released), and write the listing anew:\n\n    \
             {COMMAND}\n",
            change.lines.join("\n"),
            if breaks {
                "breaks callers"
            } else {
                "only adds to the API"
            },
            next(listed, breaks),
            env!("CARGO_PKG_VERSION"),
        );
    }
}

/// Checks the auto traits that callers need to move a value to another thread; the listing does not show them.
#[test]
fn types_stay_sendable() {
    use dnstap_proto::{
        Dnstap, DnstapRef, View,
        frame_streams::{
            Client, Decoder, ReadError, Reader, Server, SocketError, SocketReader, SocketWriter,
            WriteError, Writer,
        },
    };
    const fn sendable<T: Send + Sync + Unpin + 'static>() {}
    type Socket = std::net::TcpStream;

    sendable::<(Dnstap, DnstapRef<'static>, View<'static>)>();
    sendable::<(Client, Server, Decoder)>();
    sendable::<(Reader<Socket>, Writer<Socket>)>();
    sendable::<(SocketReader<Socket>, SocketWriter<Socket>)>();
    sendable::<(ReadError, WriteError, SocketError)>();
}

#[test]
fn what_is_removed_or_changed_breaks_and_what_is_added_does_not() {
    let before = "pub struct A { pub a: u8, b: u8 } impl A { pub fn f(&self) {} fn g() {} }";
    for (after, breaks) in [
        (before, None),
        // Changes of private parts and bodies do not count.
        (
            "pub struct A { pub a: u8, c: u16 } impl A { pub fn f(&self) { g() } }",
            None,
        ),
        (
            "pub struct A { pub a: u8, b: u8 } impl A { pub fn f(&self) {} pub fn g() {} }",
            Some(false),
        ),
        (
            "pub struct A { pub a: u8, b: u8 } impl A { pub fn f(&self) {} } impl Clone for A {}",
            Some(false),
        ),
        (
            "pub struct A { pub a: u8, pub b: u8, c: u8 } impl A { pub fn f(&self) {} }",
            Some(false),
        ),
        (
            "#[derive(Debug)] pub struct A { pub a: u8, b: u8 } impl A { pub fn f(&self) {} }",
            Some(false),
        ),
        (
            "pub struct A { pub a: u8, b: u8 } impl A { pub fn f(&mut self) {} }",
            Some(true),
        ),
        (
            "pub struct A { pub a: u16, b: u8 } impl A { pub fn f(&self) {} }",
            Some(true),
        ),
        ("pub struct A { pub a: u8, b: u8 }", Some(true)),
        (
            "struct A { pub a: u8, b: u8 } impl A { pub fn f(&self) {} }",
            Some(true),
        ),
    ] {
        assert_eq!(change(before, after).breaks, breaks, "{after}");
    }
}

#[test]
fn another_variant_or_field_breaks_unless_the_type_said_that_more_may_come() {
    for (before, after, breaks) in [
        ("pub enum A { B }", "pub enum A { B, C }", true),
        (
            "#[non_exhaustive] pub enum A { B }",
            "#[non_exhaustive] pub enum A { B, C }",
            false,
        ),
        (
            "pub struct A { pub b: u8 }",
            "pub struct A { pub b: u8, pub c: u8 }",
            true,
        ),
        (
            "pub struct A { pub b: u8 }",
            "pub struct A { pub b: u8, c: u8 }",
            true,
        ),
        ("", "pub enum A { B }", false),
        (
            "mod m { pub fn f() {} }",
            "pub mod m { pub fn f() {} }",
            true,
        ),
        ("pub use m::{a, b};", "pub use m::a;", true),
        ("pub fn f(a: u8) {}", "pub fn f(b: u16) {}", true),
        (
            "pub fn f(a: u8) {}",
            "pub fn f(mut b: u8) {} pub fn g() {}",
            false,
        ),
    ] {
        assert_eq!(change(before, after).breaks, Some(breaks), "{after}");
    }
}

#[test]
fn the_next_version_follows_cargos_rules() {
    assert_eq!(next("0.1.0", true), "0.2.0");
    assert_eq!(next("0.1.0", false), "0.1.1");
    assert_eq!(next("1.2.3", true), "2.0.0");
    assert_eq!(next("1.2.3", false), "1.3.0");
}

/// Returns the lowest version for the next release with such a change.
fn next(version: &str, breaks: bool) -> String {
    let numbers: Vec<u64> = version.split('.').map(|n| n.parse().unwrap()).collect();
    match (numbers[0], numbers[1], numbers[2], breaks) {
        (0, minor, _, true) => format!("0.{}.0", minor + 1),
        (0, minor, patch, false) => format!("0.{minor}.{}", patch + 1),
        (major, _, _, true) => format!("{}.0.0", major + 1),
        (major, minor, _, false) => format!("{major}.{}.0", minor + 1),
    }
}

fn change(before: &str, after: &str) -> Change {
    let list = |source| lines(&[source], Path::new("nowhere"));
    Change::between(&list(before).into_keys().collect(), &list(after))
}

struct Change {
    /// Whether callers may have to change; `None` if nothing has changed.
    breaks: Option<bool>,
    lines: Vec<String>,
}

impl Change {
    fn between(before: &BTreeSet<String>, now: &Lines) -> Self {
        let removed = before.iter().filter(|line| !now.contains_key(*line));
        let added = now.iter().filter(|(line, _)| !before.contains(*line));
        // The type existed and was not `non_exhaustive`, so a caller may have listed all its fields or variants.
        let closed = |of: &String| {
            before.contains(of) && !of.contains("#[non_exhaustive]") && !of.ends_with(PRIVATE)
        };
        let breaks = removed.clone().next().is_some()
            || added.clone().any(|(_, of)| of.as_ref().is_some_and(closed));
        let lines: Vec<_> = removed
            .map(|line| format!("- {line}"))
            .chain(added.map(|(line, _)| format!("+ {line}")))
            .collect();
        Self {
            breaks: (!lines.is_empty()).then_some(breaks),
            lines,
        }
    }
}
