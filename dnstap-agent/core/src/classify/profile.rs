//! Which rules of [`classify`](crate::classify) suit a process: the lists of rules by name, the servers that they are for,
//! and the choice by the name of the executable.
//!
//! Where a server has a dnstap of its own (unbound, knotd, dnsdist, coredns, ...) its profile names things as that does,
//! as far as the socket shows the difference. `docs/types.md` has the table for readers of the output.

use std::{fmt, str::FromStr};

use crate::{
    classify::{GENERIC, Profile, Rule},
    model::{Kind, Role, Subject},
};

/// A resolver for its clients: all that it is asked is theirs, what it asks follows RD.
const RECURSIVE: &[Rule] = &[
    Rule::about(Role::Responder, Subject::Query, Kind::Client),
    Rule::about(Role::Responder, Subject::Other, Kind::Client),
];

/// A server for its zones, which does not resolve. What it asks with RD it asks of a resolver, as a stub does.
const AUTHORITATIVE: &[Rule] = &[
    Rule::all(Role::Responder, Kind::Auth),
    Rule {
        recursion_desired: Some(true),
        ..Rule::about(Role::Initiator, Subject::Query, Kind::Stub)
    },
];

/// A forwarder or balancer, which passes on what it is asked, with and without RD.
const FORWARDER: &[Rule] = &[
    Rule::about(Role::Responder, Subject::Query, Kind::Client),
    Rule::about(Role::Responder, Subject::Other, Kind::Client),
    Rule::about(Role::Initiator, Subject::Query, Kind::Forwarder),
    Rule::about(Role::Initiator, Subject::Other, Kind::Forwarder),
];

/// A program that asks for its own needs, or a host's stub resolver that asks for others.
const STUB: &[Rule] = &[
    Rule::about(Role::Responder, Subject::Query, Kind::Client),
    Rule::about(Role::Responder, Subject::Other, Kind::Client),
    Rule::all(Role::Initiator, Kind::Stub),
];

/// A tool for tests and measurements.
const TOOL: &[Rule] = &[Rule::all(Role::Initiator, Kind::Tool)];

/// The profiles by name, and whether such a process may have zones to refresh. A resolver may: Unbound has some (`auth-zone`).
const PROFILES: &[(&str, &[Rule], bool)] = &[
    ("generic", GENERIC, true),
    ("recursive", RECURSIVE, true),
    ("authoritative", AUTHORITATIVE, true),
    ("forwarder", FORWARDER, false),
    ("stub", STUB, false),
    ("tool", TOOL, false),
];

/// Executables and their profiles: the servers of Debian's archive, and some that are not in it; the tools that ask by hand or in numbers.
/// Scripts are known by the name that the kernel keeps of them ([`executable_name`]).
const EXECUTABLES: &[(&str, &str)] = &[
    ("named", "generic"),
    ("hickory-dns", "generic"),
    ("unbound", "recursive"),
    ("pdns_recursor", "recursive"),
    ("kresd", "recursive"),
    ("dnscache", "recursive"),
    ("deadwood", "recursive"),
    ("knotd", "authoritative"),
    ("nsd", "authoritative"),
    ("pdns_server", "authoritative"),
    ("gdnsd", "authoritative"),
    ("yadifad", "authoritative"),
    ("tinydns", "authoritative"),
    ("axfrdns", "authoritative"),
    ("walldns", "authoritative"),
    ("rbldns", "authoritative"),
    ("pickdns", "authoritative"),
    ("rbldnsd", "authoritative"),
    ("maradns", "authoritative"),
    ("zoneserver", "authoritative"),
    ("mydns", "authoritative"),
    ("yaku-ns", "authoritative"),
    ("ldns-testns", "authoritative"),
    ("ixfrdist", "authoritative"),
    ("ods-signerd", "authoritative"),
    ("acme-dns", "authoritative"),
    ("all-knowing-dns", "authoritative"),
    ("iodined", "authoritative"),
    ("dns2tcpd", "authoritative"),
    ("dnsdist", "forwarder"),
    ("coredns", "forwarder"),
    ("dnsmasq", "forwarder"),
    ("dnsproxy", "forwarder"),
    ("dnscrypt-proxy", "forwarder"),
    ("dnscrypt-wrapper", "forwarder"),
    ("encrypted-dns", "forwarder"),
    ("smartdns", "forwarder"),
    ("dnss", "forwarder"),
    ("pdnsd", "forwarder"),
    ("curvedns", "forwarder"),
    ("aardvark-dns", "forwarder"),
    ("pihole-FTL", "forwarder"),
    ("AdGuardHome", "forwarder"),
    ("blocky", "forwarder"),
    ("systemd-resolved", "stub"),
    ("stubby", "stub"),
    ("dig", "tool"),
    ("drill", "tool"),
    ("kdig", "tool"),
    ("delv", "tool"),
    ("host", "tool"),
    ("nslookup", "tool"),
    ("nsupdate", "tool"),
    ("dnsperf", "tool"),
    ("resperf", "tool"),
    ("mdig", "tool"),
    ("khost", "tool"),
    ("knsupdate", "tool"),
    ("sdig", "tool"),
    ("dnsreplay", "tool"),
    ("dnsbulktest", "tool"),
    ("dnstcpbench", "tool"),
    ("calidns", "tool"),
    ("saxfr", "tool"),
    ("unbound-host", "tool"),
    ("dnsq", "tool"),
    ("dnsqr", "tool"),
    ("dnstrace", "tool"),
    ("axfr-get", "tool"),
    ("getdns_query", "tool"),
    ("adnshost", "tool"),
    ("dnsget", "tool"),
    ("massdns", "tool"),
    ("dnstracer", "tool"),
    ("dnsmap", "tool"),
    ("dnswalk", "tool"),
    ("dnsenum", "tool"),
    ("fpdns", "tool"),
    ("dnsping", "tool"),
    ("dnseval", "tool"),
    ("dnstraceroute", "tool"),
    ("dnsviz", "tool"),
    ("flame", "tool"),
];

/// The name of an executable that has a profile, from its name in the kernel, which keeps 15 bytes of it; `None` if it has none.
#[must_use]
pub fn known_executable(name: &str) -> Option<&'static str> {
    let is = |known: &str| known == name || name.len() == 15 && known.starts_with(name);
    EXECUTABLES
        .iter()
        .map(|(known, _)| *known)
        .find(|known| is(known))
}

/// A chosen profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its name.
    pub name: &'static str,
    at: usize,
}

impl Chosen {
    fn named(name: &str) -> Option<Self> {
        let at = PROFILES.iter().position(|(known, ..)| *known == name)?;
        Some(Self {
            name: PROFILES[at].0,
            at,
        })
    }

    /// For an executable: by its name; else [`GENERIC`] if the process serves DNS and `stub` if it does not.
    fn of_executable(name: &str, serves: bool) -> Self {
        let known = EXECUTABLES.iter().find(|(known, _)| *known == name);
        let other = if serves { "generic" } else { "stub" };
        let profile = known.map_or(other, |(_, profile)| profile);
        Self::named(profile).unwrap_or(Self {
            name: "generic",
            at: 0,
        })
    }

    /// Its rules, worked out.
    #[must_use]
    pub fn profile(self) -> Profile {
        let (_, rules, has_zones) = PROFILES[self.at];
        let profile = Profile::new(rules);
        if has_zones {
            profile
        } else {
            profile.without_zones()
        }
    }
}

/// What was asked for: `auto`, a profile's name, or that of an executable which has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProfileChoice {
    /// By the name of the process's executable.
    #[default]
    Auto,
    /// This one.
    Named(Chosen),
}

impl ProfileChoice {
    /// The profile for a process: `executable` is its file's name without folders.
    #[must_use]
    pub fn choose(self, executable: &str, serves: bool) -> Chosen {
        match self {
            Self::Auto => Chosen::of_executable(executable, serves),
            Self::Named(chosen) => chosen,
        }
    }
}

impl FromStr for ProfileChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == "auto" {
            return Ok(Self::Auto);
        }
        let executable = EXECUTABLES.iter().find(|(known, _)| *known == name);
        let profile = executable.map_or(name, |(_, profile)| profile);
        Chosen::named(profile).map(Self::Named).ok_or_else(|| {
            let names: Vec<_> = PROFILES.iter().map(|(name, ..)| *name).collect();
            let executables: Vec<_> = EXECUTABLES.iter().map(|(name, _)| *name).collect();
            format!(
                "no such profile; there are auto, {} and, by server or tool, {}",
                names.join(", "),
                executables.join(", ")
            )
        })
    }
}

impl fmt::Display for ProfileChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Named(chosen) => chosen.name,
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::model::Role::{Initiator, Responder};

    #[test]
    fn every_executable_has_a_profile_that_exists() {
        for (executable, profile) in EXECUTABLES {
            assert!(Chosen::named(profile).is_some(), "{executable}");
            assert_eq!(
                executable.parse(),
                Ok(ProfileChoice::Named(Chosen::named(profile).unwrap()))
            );
        }
    }

    #[rstest]
    #[case::resolver("unbound", [Kind::Client, Kind::Client, Kind::Resolver, Kind::Forwarder])]
    #[case::for_its_zones("nsd", [Kind::Auth, Kind::Auth, Kind::Resolver, Kind::Stub])]
    #[case::both("named", [Kind::Auth, Kind::Client, Kind::Resolver, Kind::Forwarder])]
    #[case::balancer("dnsdist", [Kind::Client, Kind::Client, Kind::Forwarder, Kind::Forwarder])]
    #[case::stub("systemd-resolved", [Kind::Client, Kind::Client, Kind::Stub, Kind::Stub])]
    #[case::tool("kdig", [Kind::Auth, Kind::Client, Kind::Tool, Kind::Tool])]
    #[case::in_the_archive("gdnsd", [Kind::Auth, Kind::Auth, Kind::Resolver, Kind::Stub])]
    #[case::unknown_server("newdns", [Kind::Auth, Kind::Client, Kind::Resolver, Kind::Forwarder])]
    fn queries_are_named_by_profile(#[case] executable: &str, #[case] expected: [Kind; 4]) {
        let profile = ProfileChoice::Auto.choose(executable, true).profile();
        let kinds = [
            (Responder, false),
            (Responder, true),
            (Initiator, false),
            (Initiator, true),
        ]
        .map(|(role, recursion)| profile.kind(role, Subject::Query, recursion));
        assert_eq!(kinds, expected);
        assert_eq!(profile.kind(Initiator, Subject::Update, true), Kind::Update);
        assert_eq!(profile.kind(Responder, Subject::Notify, true), Kind::Auth);
        assert_eq!(profile.kind(Responder, Subject::Transfer, true), Kind::Auth);
    }

    #[test]
    fn unknown_program_that_does_not_serve_is_a_stub() {
        assert_eq!(ProfileChoice::Auto.choose("curl", false).name, "stub");
        assert_eq!(ProfileChoice::Auto.choose("named", false).name, "generic");
    }

    #[test]
    fn choice_overrules_the_executable_and_says_what_there_is() {
        let choice: ProfileChoice = "authoritative".parse().unwrap();
        assert_eq!(choice.choose("named", true).name, "authoritative");
        let error = "bind".parse::<ProfileChoice>().unwrap_err();
        assert!(
            error.contains("recursive") && error.contains("pdns_server"),
            "{error}"
        );
    }

    #[test]
    fn what_has_no_zones_refreshes_none() {
        let has_zones = |name: &str| Chosen::named(name).unwrap().profile().has_zones();
        let with: Vec<_> = PROFILES
            .iter()
            .map(|(name, ..)| *name)
            .filter(|name| has_zones(name))
            .collect();
        assert_eq!(with, ["generic", "recursive", "authoritative"]);
    }

    #[test]
    fn names_are_in_the_table_once_and_a_cut_one_is_nobody_elses() {
        for (at, (name, _)) in EXECUTABLES.iter().enumerate() {
            let others = EXECUTABLES[at + 1..].iter().map(|(name, _)| *name);
            for other in others {
                let cut = name.len() >= 15 && other.len() >= 15 && name[..15] == other[..15];
                assert!(*name != other && !cut, "{name}");
            }
        }
    }
}
