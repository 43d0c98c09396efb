//! Profiles: lists of rules for [`classify`](crate::classify), the servers that they suit, and the
//! choice by the name of the executable.
//!
//! If a server has a dnstap of its own (unbound, knotd, dnsdist, coredns, ...), its profile uses
//! the same types, as far as the socket shows the difference. `docs/types.md` has the table for
//! readers of the output.

use std::{fmt, str::FromStr};

use crate::{
    classify::{GENERIC, Profile, Rule},
    model::{Kind, Role, Subject},
};

/// A resolver: all received queries come from its clients; the type of sent queries follows RD.
const RECURSIVE: &[Rule] = &[
    Rule::about(Role::Responder, Subject::Query, Kind::Client),
    Rule::about(Role::Responder, Subject::Other, Kind::Client),
];

/// An authoritative server, which does not resolve. Queries that it sends with RD go to a resolver,
/// as a stub's do.
const AUTHORITATIVE: &[Rule] = &[
    Rule::all(Role::Responder, Kind::Auth),
    Rule {
        recursion_desired: Some(true),
        ..Rule::about(Role::Initiator, Subject::Query, Kind::Stub)
    },
];

/// A forwarder or load balancer, which passes on the queries that it receives, with and without RD.
const FORWARDER: &[Rule] = &[
    Rule::about(Role::Responder, Subject::Query, Kind::Client),
    Rule::about(Role::Responder, Subject::Other, Kind::Client),
    Rule::about(Role::Initiator, Subject::Query, Kind::Forwarder),
    Rule::about(Role::Initiator, Subject::Other, Kind::Forwarder),
];

/// A program that asks for itself, or a host's stub resolver that asks for others.
const STUB: &[Rule] = &[
    Rule::about(Role::Responder, Subject::Query, Kind::Client),
    Rule::about(Role::Responder, Subject::Other, Kind::Client),
    Rule::all(Role::Initiator, Kind::Stub),
];

/// A tool for tests and measurements.
const TOOL: &[Rule] = &[Rule::all(Role::Initiator, Kind::Tool)];

/// Profiles by name, and whether such a process may have zones to refresh. A resolver may: Unbound
/// has some (`auth-zone`).
const PROFILES: &[(&str, &[Rule], bool)] = &[
    ("generic", GENERIC, true),
    ("recursive", RECURSIVE, true),
    ("authoritative", AUTHORITATIVE, true),
    ("forwarder", FORWARDER, false),
    ("stub", STUB, false),
    ("tool", TOOL, false),
];

/// Executables and their profiles: the servers in Debian's archive and some others, and tools that
/// send single or many queries. Scripts are known by the name that the kernel stores
/// ([`executable_name`]).
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

/// Returns the name of an executable that has a profile, from the name in the kernel, which has at
/// most 15 bytes. Returns `None` if it has no profile.
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
    /// Name of the profile.
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

    /// Chooses the profile of an executable by its name. Without a known name, [`GENERIC`] if the
    /// process serves DNS, otherwise `stub`.
    fn of_executable(name: &str, serves: bool) -> Self {
        let known = EXECUTABLES.iter().find(|(known, _)| *known == name);
        let other = if serves { "generic" } else { "stub" };
        let profile = known.map_or(other, |(_, profile)| profile);
        Self::named(profile).unwrap_or(Self {
            name: "generic",
            at: 0,
        })
    }

    /// Returns the expanded rules of the profile.
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

/// The user's choice: `auto`, a profile's name, or the name of an executable that has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProfileChoice {
    /// Choose by the name of the process's executable.
    #[default]
    Auto,
    /// Use this profile.
    Named(Chosen),
}

impl ProfileChoice {
    /// Returns the profile for a process; `executable` is its file's name without folders.
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
