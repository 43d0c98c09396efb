//! Passive DNS of a real recursive `named`. The RRsets in the store must be those in the zones, and each must have the
//! zone that it came from as its bailiwick. There are three stores. The first comes from the tap, which learns from the
//! messages which server serves which zone. The second comes from the tap with `--probe zone`, and the third from the
//! server's own dnstap; both of these name the zone. `dnsdbq` must also read the exported lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{for_each_hook, note, report::Browser};
use crate::{
    environment::{self, Combination},
    lab,
    load::tools::dig,
    process::{Running, Watch},
    tap::Tap,
    tree::{self, Role, Tree},
};

pub(super) fn trials() -> Vec<Trial> {
    for_each_hook(
        "the store of passive DNS is what the zones are, and dnsdbq reads it",
        |how| tree::isolated(|| the_store_is_the_zones(how)),
    )
}

/// Zones that are queried, and their servers.
const ZONES: [(&str, Role); 4] = [
    (".", Role::Root),
    ("lab", Role::Tld),
    ("plain.lab", Role::Zone),
    ("signed.lab", Role::Zone),
];

/// Owner, type, and for signatures the type that they cover.
type Key = (String, String, String);

/// Data of each RRset of each zone.
type Sets = BTreeMap<(String, Key), BTreeSet<String>>;

fn the_store_is_the_zones(how: &Combination) -> Result<()> {
    let mut tree = Tree::start(how, &[])?;
    let scratch = lab::scratch()?;
    let [tapped, probed, own] = ["tapped", "probed", "own"].map(|name| scratch.path().join(name));
    let roots = [false, true].map(|ipv6| format!("root={}", Role::Root.address(ipv6)));
    let output = format!("pdns:{},{}", tapped.display(), roots.join(","));
    let recursive = tree.named(Role::Recursive).pid();
    let tap = Tap::attach(scratch.path(), recursive, how, &["-o", &output])?;
    // The probe names the zone, so this tap does not need the addresses of the root servers.
    let folder = scratch.path().join("with-probe");
    fs::create_dir(&folder)?;
    let output = format!("pdns:{}", probed.display());
    let options = ["--probe", "zone", "-o", &output];
    let with_probe = Tap::attach(&folder, recursive, how, &options)?;
    let truth = truth()?;
    let asked = ask(scratch.path(), &truth)?;
    tap.stop()?;
    with_probe.stop()?;
    // The server's own file is complete only after the server has ended.
    let recorded = scratch.path().join("recursive.fstrm");
    fs::hard_link(tree.scratch().join("recursive/named.fstrm"), &recorded)?;
    tree.finish()?;
    let said = agent(&["pdns", "collect", "--db", &text(&own), &text(&recorded)])?;
    note(format!("{how}: named's own dnstap: {}", said.1.trim()));
    for (store, what) in [
        (&tapped, "tap"),
        (&probed, "tap with --probe zone"),
        (&own, "named's own dnstap"),
    ] {
        let stored = stored(store)?;
        same(&stored, &truth, &asked).with_context(|| what)?;
        note(format!(
            "{how}: {what}: {} RRsets in the store, {} asked for",
            stored.len(),
            asked.len()
        ));
        as_dnsdbq(store, scratch.path()).with_context(|| what)?;
        served(store, scratch.path()).with_context(|| what)?;
    }
    Ok(())
}

/// Returns all RRsets of the zones, from their servers.
fn truth() -> Result<Sets> {
    let mut sets = Sets::new();
    for (zone, role) in ZONES {
        let name = format!("{}.", zone.trim_end_matches('.'));
        let text = dig(role.server(false), &[&name, "AXFR", "+nosplit"])?;
        for line in text.lines().filter(|line| !line.starts_with(';')) {
            let mut words = line.split_whitespace();
            let (Some(owner), Some(_), Some(_), Some(kind)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let data = line.split_once(kind).map_or("", |(_, data)| data.trim());
            let key = key(owner, kind, data);
            let set = sets.entry((undotted(zone), key)).or_default();
            set.insert(data.to_owned());
        }
    }
    ensure!(sets.len() > 400, "{} RRsets in the zones", sets.len());
    Ok(sets)
}

fn key(owner: &str, kind: &str, data: &str) -> Key {
    let covered = match kind {
        "RRSIG" => data.split(' ').next().unwrap_or_default(),
        _ => "",
    };
    (
        undotted(&owner.to_lowercase()),
        kind.to_owned(),
        covered.to_owned(),
    )
}

fn undotted(name: &str) -> String {
    match name.trim_end_matches('.') {
        "" => ".".to_owned(),
        name => name.to_owned(),
    }
}

/// Asks the resolver for each RRset that belongs to the zone itself and not to a zone below it. Returns these RRsets.
fn ask(folder: &Path, truth: &Sets) -> Result<BTreeSet<(String, Key)>> {
    let is_of_zone = |(zone, (owner, kind, _)): &(String, Key)| {
        let below = ZONES.iter().map(|(other, _)| undotted(other));
        let mut below = below.filter(|other| {
            other != zone
                && (owner == other || owner.ends_with(&format!(".{other}")))
                && (zone == "." || other.ends_with(&format!(".{zone}")))
        });
        // Zones below have their own RRsets, and `big.lab` and `dyn.lab` are not queried. A wrong signature (`changed`)
        // gets no answer.
        let is_elsewhere =
            below.next().is_some() || owner.ends_with("big.lab") || owner.ends_with("dyn.lab");
        !is_elsewhere && !matches!(&**kind, "RRSIG" | "NSEC") && !owner.starts_with("changed.")
    };
    let asked: BTreeSet<_> = truth
        .keys()
        .filter(|set| is_of_zone(set))
        .cloned()
        .collect();
    let questions = asked
        .iter()
        .map(|(_, (owner, kind, _))| format!("{owner} {kind} +dnssec"));
    let questions = questions.collect::<Vec<_>>().join("\n");
    let file = lab::write(folder, "questions", &questions)?;
    dig(Role::Recursive.server(false), &["-f", &text(&file)])?;
    Ok(asked)
}

/// Returns the RRsets in the store, as `pdns query` prints them.
fn stored(store: &Path) -> Result<Sets> {
    let mut sets = Sets::new();
    for kinds in ["ANY", "ANY-DNSSEC"] {
        let (lines, _) = agent(&[
            "pdns",
            "query",
            "--db",
            &text(store),
            "-r",
            "*.",
            "-t",
            kinds,
            "-l",
            "0",
            "-p",
            "json",
        ])?;
        for line in lines.lines() {
            let set: Value = serde_json::from_str(line)?;
            let word = |field: &str| {
                set[field]
                    .as_str()
                    .with_context(|| format!("{field} of {line}"))
            };
            let data: Option<BTreeSet<_>> = set["rdata"]
                .as_array()
                .context("rdata")?
                .iter()
                .map(|data| data.as_str().map(str::to_owned))
                .collect();
            let data = data.context("rdata")?;
            let first = data.first().map_or("", String::as_str);
            let key = key(word("rrname")?, word("rrtype")?, first);
            ensure!(
                set["time_first"].as_u64() <= set["time_last"].as_u64()
                    && set["count"].as_u64() >= Some(1),
                "{line}"
            );
            let was = sets.insert((word("bailiwick")?.to_owned(), key), data);
            ensure!(was.is_none(), "a second set with the same name: {line}");
        }
    }
    Ok(sets)
}

/// Checks that each stored RRset is in the zone that vouches for it, and that each RRset that was asked for is stored.
fn same(stored: &Sets, truth: &Sets, asked: &BTreeSet<(String, Key)>) -> Result<()> {
    let is_looked_at = |zone: &str| ZONES.iter().any(|(known, _)| undotted(known) == zone);
    let wrong: Vec<_> = stored
        .iter()
        .filter(|((zone, _), _)| is_looked_at(zone))
        .filter(|(set, data)| truth.get(*set) != Some(*data))
        .collect();
    ensure!(
        wrong.is_empty(),
        "{} stored that no zone has: {:?}",
        wrong.len(),
        wrong.first()
    );
    let missing: Vec<_> = asked
        .iter()
        .filter(|set| !stored.contains_key(*set))
        .collect();
    ensure!(
        missing.is_empty(),
        "{} of {} not stored: {:?}",
        missing.len(),
        asked.len(),
        missing.first()
    );
    // A delegation is stored twice: for the parent zone and for the child zone.
    for (parent, child) in [(".", "lab"), ("lab", "plain.lab"), ("lab", "signed.lab")] {
        for zone in [parent, child] {
            let set = (zone.to_owned(), key(child, "NS", ""));
            ensure!(stored.contains_key(&set), "{set:?} is not stored");
        }
    }
    Ok(())
}

/// Checks that `dnsdbq` prints exported lines in the same way as `pdns query` prints the store.
fn as_dnsdbq(store: &Path, folder: &Path) -> Result<()> {
    let dnsdbq = environment::tool("dnsdbq")?;
    let ask = |format: &str| {
        agent(&[
            "pdns",
            "query",
            "--db",
            &text(store),
            "-r",
            "*.plain.lab",
            "-p",
            format,
        ])
        .map(|said| said.0)
    };
    let exported = lab::write(folder, "exported.json", &ask("json")?)?;
    let theirs = |more: &[&str]| -> Result<String> {
        let mut command = Command::new(&dnsdbq);
        // `dnsdbq` needs a key, although it sends no query here.
        command
            .env("DNSDB_API_KEY", "none")
            .arg("-J")
            .arg(&exported)
            .args(more);
        let output = command.output()?;
        ensure!(output.status.success(), "{command:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let objects = |text: &str| -> Result<Vec<Value>> {
        text.lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    };
    let json = ask("json")?;
    ensure!(
        objects(&json)? == objects(&theirs(&["-p", "json"])?)?,
        "JSON differs"
    );
    // Common Output Format has no dots at the end of owners and zones, so `dnsdbq` prints none.
    let plain = |text: &str| {
        let line = |line: &str| match line.split_once("  ") {
            Some((owner, rest)) => format!("{}  {rest}", owner.trim_end_matches('.')),
            // `dnsdbq` does not escape quotes within quotes.
            None => line
                .replace('"', "")
                .replace(".,", ",")
                .trim_end_matches('.')
                .to_owned(),
        };
        text.lines().map(line).collect::<Vec<_>>()
    };
    for format in ["text", "csv"] {
        let (ours, theirs) = (plain(&ask(format)?), plain(&theirs(&["-p", format])?));
        let differing = ours
            .iter()
            .zip(&theirs)
            .find(|(ours, theirs)| ours != theirs);
        ensure!(
            ours.len() > 200 && ours == theirs,
            "{format} differs: {differing:?}"
        );
    }
    let limited = theirs(&["-p", "json", "-L", "7"])?;
    let ours = agent(&[
        "pdns",
        "query",
        "--db",
        &text(store),
        "-r",
        "*.plain.lab",
        "-p",
        "json",
        "-L",
        "7",
    ])?
    .0;
    ensure!(
        objects(&limited)? == objects(&ours)? && ours.lines().count() == 7,
        "-L differs"
    );
    Ok(())
}

/// Checks that `dnsdbq` gets from `pdns serve`, over each of the two interfaces, what `pdns query` prints.
fn served(store: &Path, folder: &Path) -> Result<()> {
    let mine = |arguments: &[&str]| -> Result<Vec<Value>> {
        let db = text(store);
        let words = [&["pdns", "query", "--db", &db, "-p", "json"], arguments].concat();
        agent(&words)?.0.lines().map(plain).collect()
    };
    let questions: &[&[&str]] = &[
        &["-r", "*.plain.lab"],
        &["-r", "plain.lab/NS/lab"],
        &["-r", "h1.plain.*"],
        &["-t", "ANY-DNSSEC", "-r", "*.signed.lab"],
        &["-n", "ns.plain.lab"],
        &["-n", "*.lab/NS"],
        &["-i", "192.0.2.0,28"],
        &["-i", "192.0.2.1"],
        &["-i", "2001:db8::5-2001:db8::9"],
        &["-N", "c0000205"],
        &["-R", "02683105706c61696e036c616200"],
        &["-r", "*.plain.lab", "-l", "5", "-O", "3"],
        &["-r", "*.plain.lab", "-A", "-3600"],
        &["-r", "*.plain.lab", "-A", "-3600", "-c"],
        &["-r", "*.plain.lab", "-B", "2020-01-01"],
        &["-r", "*.lab", "-s", "-k", "name,type,data"],
    ];
    let mine: Result<Vec<_>> = questions.iter().map(|question| mine(question)).collect();
    let mine = mine?;
    let owner = agent(&[
        "pdns",
        "query",
        "--db",
        &text(store),
        "-p",
        "json",
        "-r",
        "h1.plain.lab",
    ])?
    .0;
    let address = agent(&[
        "pdns",
        "query",
        "--db",
        &text(store),
        "-p",
        "json",
        "-i",
        "192.0.2.9",
    ])?
    .0;

    let port = lab::free_port()?;
    let mut command = Command::new(environment::agent()?);
    command
        .args(["pdns", "serve", "--db", &text(store), "--listen"])
        .arg(format!("127.0.0.1:{port}"));
    let mut server = Running::start("pdns serve", command, Watch::Stderr)?;
    server.wait_for("answers", |line| line.contains("answers"))?;
    configure_dnsdbq(folder, port)?;
    let theirs = |system: &str, question: &[&str]| -> Result<Vec<Value>> {
        let mut command = Command::new(environment::tool("dnsdbq")?);
        command
            .env("HOME", folder)
            .args(["-u", system, "-p", "json"])
            .args(question);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && (said.is_empty() || said.contains("no results found")),
            "{command:?}: {output:?}"
        );
        String::from_utf8(output.stdout)?
            .lines()
            .map(plain)
            .collect()
    };
    let mut told = 0;
    for (question, mine) in questions.iter().zip(&mine) {
        let theirs = theirs("dnsdb2", question)?;
        ensure!(
            &theirs == mine,
            "{question:?}: {} and {} answers: {theirs:?}",
            theirs.len(),
            mine.len()
        );
        told += theirs.len();
    }
    ensure!(told > 1000, "{told} answers");
    for (question, mine) in [
        (["-r", "h1.plain.lab"], owner),
        (["-i", "192.0.2.9"], address),
    ] {
        let mine: Result<Vec<_>> = mine.lines().map(plain).collect();
        let mine = mine?;
        ensure!(
            !mine.is_empty() && theirs("circl", &question)? == mine,
            "{question:?}"
        );
    }
    page(port, folder)?;
    server.stop(libc::SIGTERM)?;
    guarded(store, folder)
}

/// Writes the file from which `dnsdbq` reads the address of CIRCL's interface; it has no option for it.
fn configure_dnsdbq(folder: &Path, port: u16) -> Result<()> {
    let settings = format!(
        "DNSDB_API_KEY=none\nDNSDB_SERVER=http://127.0.0.1:{port}\nCIRCL_AUTH=a:b\nCIRCL_SERVER=http://127.0.0.1:{port}/pdns/query\n"
    );
    lab::write(folder, ".dnsdb-query.conf", &settings)?;
    Ok(())
}

/// Checks that the page shows in Chromium what the store has, and that the server counts it.
fn page(port: u16, folder: &Path) -> Result<()> {
    let browser = Browser::new(folder)?;
    let show = |question: &str| {
        let url = format!("http://127.0.0.1:{port}/#{question}");
        browser.open_url(&url, &["--virtual-time-budget=20000"])
    };
    let zone = show("q=plain.lab")?;
    ensure!(
        zone.console.is_empty(),
        "the page complains: {:?}",
        zone.console
    );
    for expected in [
        "Name servers of plain.lab",
        "ns.plain.lab.",
        "<rect",
        "data-done",
    ] {
        ensure!(zone.dom.contains(expected), "{expected}: {}", zone.dom);
    }
    let address = show("q=192.0.2.9")?;
    ensure!(
        address.dom.contains("192.0.2.9</td>") && !address.dom.contains("<caption>Name servers of"),
        "{}",
        address.dom
    );
    let nothing = show("q=no.such.name")?;
    ensure!(
        nothing.dom.contains(">Nothing was seen.</p>"),
        "{}",
        nothing.dom
    );
    let metrics = fetch(&[], &format!("http://127.0.0.1:{port}/metrics"))?;
    let lookups = metrics
        .lines()
        .find_map(|line| line.strip_prefix("dnstap_agent_pdns_requests_total{result=\"lookup\"} "));
    // Two for each name (with its name servers), one for the address, and those of `dnsdbq`.
    let lookups: u32 = lookups.context("no count of look-ups")?.parse()?;
    ensure!(lookups >= 5 + 18, "{lookups} look-ups: {metrics}");
    Ok(())
}

/// Checks TLS, keys and their limits with curl.
fn guarded(store: &Path, folder: &Path) -> Result<()> {
    let mut openssl = Command::new(environment::tool("openssl")?);
    openssl
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args([
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-keyout", "serve.key", "-out", "serve.pem"]);
    let output = openssl.current_dir(folder).output()?;
    ensure!(output.status.success(), "{openssl:?}: {output:?}");
    let (cert, key) = (folder.join("serve.pem"), folder.join("serve.key"));
    let keys = lab::write(folder, "keys", "free\nfew 2/day # no comment\n")?;
    let port = lab::free_port()?;
    let serve = |keys: &Path| -> Result<Command> {
        let mut command = Command::new(environment::agent()?);
        command
            .args(["pdns", "serve", "--db", &text(store), "--listen"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("--keys")
            .arg(keys)
            .arg("--tls-cert")
            .arg(&cert)
            .arg("--tls-key")
            .arg(&key);
        Ok(command)
    };
    let output = serve(&keys)?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(66) && said.contains("line 2"),
        "a wrong list of keys: {output:?}"
    );
    let keys = lab::write(folder, "keys", "free\nfew 2/day\n")?;
    let mut server = Running::start("pdns serve", serve(&keys)?, Watch::Stderr)?;
    server.wait_for("https", |line| line.contains("answers at https://"))?;
    let status = |path: &str, key: &str| -> Result<String> {
        let ca = text(&cert);
        let header = format!("X-API-Key: {key}");
        let shown = ["-w", "\n%{http_code}", "--cacert", &ca, "-H", &header];
        fetch(&shown, &format!("https://localhost:{port}{path}"))
    };
    let lookup = "/pdns/query/h1.plain.lab";
    for (path, key, code, content) in [
        ("/", "", "200", "<title>Passive DNS</title>"),
        (lookup, "", "403", "no such key"),
        ("/metrics", "fews", "403", "no such key"),
        (lookup, "few", "200", "h1.plain.lab"),
        ("/dnsdb/v2/rate_limit", "few", "200", "\"remaining\":1"),
        (lookup, "few", "200", "h1.plain.lab"),
        (lookup, "few", "429", "no requests left"),
        (lookup, "free", "200", "h1.plain.lab"),
        ("/dnsdb/v2/rate_limit", "few", "200", "\"remaining\":0"),
        ("/dnsdb/v2/rate_limit", "free", "200", "unlimited"),
        ("/metrics", "free", "200", "{result=\"exhausted\"} 1"),
    ] {
        let answer = status(path, key)?;
        ensure!(
            answer.ends_with(code) && answer.contains(content),
            "{path} with {key:?}: {answer}"
        );
    }
    // Without TLS there is no answer.
    let plain = format!("http://127.0.0.1:{port}/");
    ensure!(fetch(&[], &plain).is_err(), "it answers without TLS");
    server.stop(libc::SIGTERM)?;
    Ok(())
}

/// Returns the answer to a request by curl.
fn fetch(options: &[&str], url: &str) -> Result<String> {
    let mut command = Command::new(environment::tool("curl")?);
    command.args(["--silent", "--show-error", "--max-time", "60"]);
    let output = command.args(options).arg(url).output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns an object without the dots at the end of names, which only the DNSDB API has. Data becomes an array in any
/// case.
fn plain(line: &str) -> Result<Value> {
    let mut object: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    for field in ["rrname", "bailiwick"] {
        if let Some(name) = object[field].as_str().map(undotted) {
            object[field] = name.into();
        }
    }
    if object["rdata"].is_string() {
        object["rdata"] = Value::Array(vec![object["rdata"].take()]);
    }
    Ok(object)
}

/// Runs the agent, and returns its standard output and its standard error.
fn agent(arguments: &[&str]) -> Result<(String, String)> {
    let output = Command::new(environment::agent()?)
        .args(arguments)
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.success(),
        "{arguments:?}: {}\n{said}",
        output.status
    );
    Ok((String::from_utf8(output.stdout)?, said))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
