//! Generates the zone files of the lab. The sizes make a server send all kinds of responses: some fill 4,096 bytes of
//! UDP, some need TCP, some are larger than 16 KiB, and a transfer has many messages.

use std::fmt::{self, Write as _};

/// Hosts `h0` to `h499` of `auth.lab`, each with A and AAAA.
pub(crate) const AUTH_HOSTS: usize = 500;
/// Hosts `w0` to `w199` of `up.lab`.
pub(crate) const UP_HOSTS: usize = 200;
/// Number of records of `big.lab`, without SOA and NS.
pub(crate) const BIG_RECORDS: usize = 6_000;

/// Size of one string of a TXT record, without its length byte.
const TEXT: usize = 250;
/// Largest number of strings in one TXT record.
const STRINGS: usize = 4;

/// Names of zones and their text.
pub(crate) type Zones = Vec<(&'static str, String)>;

/// Makes the zones of the tapped server: name and text.
pub(crate) fn of_tapped() -> Result<Zones, fmt::Error> {
    let mut auth = head();
    for host in 0..AUTH_HOSTS {
        writeln!(auth, "h{host} A 192.0.2.{}", host % 250 + 1)?;
        writeln!(auth, "h{host} AAAA 2001:db8::{host:x}")?;
    }
    auth.push_str("alias CNAME h1\nmail MX 10 h2\n");
    texts(&mut auth, "t3500", 13)?;
    texts(&mut auth, "t6000", 23)?;
    texts(&mut auth, "t20000", 77)?;
    texts(&mut auth, "t60000", 228)?;
    let mut big = head();
    for host in 0..BIG_RECORDS {
        writeln!(
            big,
            "b{host} TXT \"record {host} of a zone that takes several messages to transfer\""
        )?;
    }
    Ok(vec![
        ("auth.lab", auth),
        ("big.lab", big),
        ("dyn.lab", head()),
    ])
}

/// Makes the zones of the upstream server.
pub(super) fn of_upstream() -> Result<Zones, fmt::Error> {
    let mut root = String::from(
        "$TTL 3600\n@ SOA ns.up.lab. root.up.lab. 1 3600 900 86400 60\n@ NS ns.up.lab.\n",
    );
    root.push_str("up.lab. NS ns.up.lab.\nns.up.lab. A 127.0.0.1\nns.up.lab. AAAA ::1\n");
    let mut up = head();
    for host in 0..UP_HOSTS {
        writeln!(up, "w{host} A 198.51.100.{}", host % 250 + 1)?;
    }
    up.push_str("chain CNAME chain2\nchain2 CNAME w1\n");
    texts(&mut up, "big", 12)?;
    Ok(vec![(".", root), ("up.lab", up), ("moving.lab", head())])
}

fn head() -> String {
    "$TTL 3600\n@ SOA ns root 1 3600 900 86400 60\n@ NS ns\nns A 127.0.0.1\nns AAAA ::1\n"
        .to_owned()
}

/// Adds TXT records for one name that have `strings` strings together, each about 250 bytes of the response. A record
/// has several strings, because BIND accepts at most 100 records of one name and type.
pub(crate) fn texts(zone: &mut String, name: &str, strings: usize) -> fmt::Result {
    for (index, strings) in (0..strings).collect::<Vec<_>>().chunks(STRINGS).enumerate() {
        write!(zone, "{name} TXT \"record {index}\"")?;
        for string in strings {
            write!(zone, " \"{string:0TEXT$}\"")?;
        }
        zone.push('\n');
    }
    Ok(())
}
