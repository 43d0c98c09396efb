//! Functions of servers that can be probed, and which of them the options need. This is the one place that decides it.

use dnstap_core::events::{EventKind, EventKinds};
use dnstap_ebpf::{
    Function, LOG_QUERY_ERRORS, LOG_RATE_LIMIT, LOG_TRANSFER, SERVER_AUTH_QUERY,
    SERVER_CLIENT_QUERY, SERVER_WITH_ZONE,
};

use super::{
    Probe,
    library::{self, LIBDNS, LIBISC},
};

/// Function that a probe is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// `dns_dt_send` of BIND's libdns, which sends remarks.
    DtSend,
    /// A function that sends notices.
    Notice(Function),
}

impl Site {
    /// All functions.
    pub const ALL: [Self; 5] = [
        Self::DtSend,
        Self::Notice(Function::LogWrite),
        Self::Notice(Function::FlushCache),
        Self::Notice(Function::FlushNode),
        Self::Notice(Function::AddRdataset),
    ];

    /// Returns the name of the eBPF program, which is that of the function in most versions of the server.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::DtSend => "dns_dt_send",
            Self::Notice(function) => function.name(),
        }
    }

    /// Returns what a server lacks if the function cannot be probed.
    pub(super) const fn consequence(self) -> &'static str {
        match self {
            Self::DtSend => {
                "it is tapped without. `--probe` is for BIND (`named`) that was built with dnstap"
            }
            Self::Notice(Function::LogWrite) => {
                "it gives no events `rate-limit`, and no events `transfer` beyond those from its sockets. The probe is for BIND (`named`)"
            }
            Self::Notice(Function::FlushCache | Function::FlushNode) => {
                "it gives no events `purge`. The probe is for BIND (`named`)"
            }
            Self::Notice(Function::AddRdataset) => {
                "it gives no events `cache`, `ns-change` and `expiry` of what it accepts. The probe is for BIND (`named`)"
            }
        }
    }

    /// Returns the description by which the function is found.
    pub(super) const fn wanted(self) -> library::Wanted {
        const OTHER: &str = "this is another version of BIND than 9.16 to 9.20";
        let (library, functions, may_lack): (_, &'static [&'static str], _) = match self {
            Self::DtSend => (
                LIBDNS,
                &["dns_dt_send"],
                "this BIND was built without dnstap",
            ),
            Self::Notice(Function::LogWrite) => (LIBISC, &["isc_log_write"], OTHER),
            Self::Notice(Function::FlushCache) => (LIBDNS, &["dns_view_flushcache"], OTHER),
            Self::Notice(Function::FlushNode) => (LIBDNS, &["dns_view_flushnode"], OTHER),
            Self::Notice(Function::AddRdataset) => (
                LIBDNS,
                &["dns_db_addrdataset", "dns__db_addrdataset"],
                OTHER,
            ),
        };
        library::Wanted {
            library,
            functions,
            may_lack,
        }
    }

    /// Returns whether the program reads arguments on the stack and does not know by how much the stack has grown.
    pub(super) const fn has_stack_arguments(self) -> bool {
        matches!(self, Self::DtSend)
    }

    /// Returns whether the program reads names, whose layout depends on the version.
    pub(super) const fn needs_names(self) -> bool {
        matches!(
            self,
            Self::Notice(Function::FlushNode | Function::AddRdataset)
        )
    }
}

/// Functions that the options need, and what these are to report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Functions to probe.
    pub sites: Vec<Site>,
    /// Types of the messages about which remarks are needed, as `SERVER_*` bits.
    pub remarks: u32,
    /// Whether messages over TLS and HTTPS are to be copied.
    pub encrypted: bool,
    /// Categories of the log that are needed, as `LOG_*` bits.
    pub log_categories: u32,
}

impl Wanted {
    /// Returns what `--probe` and the kinds of events need. `names_queries`: the server decides the type of client
    /// queries, so remarks about these are needed, too.
    #[must_use]
    pub fn of(probes: &[Probe], names_queries: bool, events: EventKinds) -> Self {
        let remarks = match (probes.contains(&Probe::Zone), names_queries) {
            (false, _) => 0,
            (true, true) => SERVER_WITH_ZONE | SERVER_AUTH_QUERY | SERVER_CLIENT_QUERY,
            (true, false) => SERVER_WITH_ZONE,
        };
        let encrypted = probes.contains(&Probe::Encrypted);
        let category = |kind, bit| if events.contains(kind) { bit } else { 0 };
        let log_categories = category(EventKind::RateLimit, LOG_RATE_LIMIT | LOG_QUERY_ERRORS)
            | category(EventKind::Transfer, LOG_TRANSFER);
        let cache = [EventKind::Cache, EventKind::NsChange, EventKind::Expiry]
            .into_iter()
            .any(|kind| events.contains(kind));
        let is_needed = |site: &Site| match site {
            Site::DtSend => remarks != 0 || encrypted,
            Site::Notice(Function::LogWrite) => log_categories != 0,
            // What is flushed is no longer in the cache.
            Site::Notice(Function::FlushCache | Function::FlushNode) => {
                cache || events.contains(EventKind::Purge)
            }
            Site::Notice(Function::AddRdataset) => cache,
        };
        Self {
            sites: Site::ALL.into_iter().filter(is_needed).collect(),
            remarks,
            encrypted,
            log_categories,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(kinds: &[EventKind]) -> Vec<&'static str> {
        let wanted = Wanted::of(&[], true, kinds.iter().copied().collect());
        wanted.sites.into_iter().map(Site::program).collect()
    }

    #[test]
    fn only_what_is_needed_is_probed() {
        assert_eq!(
            Wanted::of(&[], true, EventKinds::default()),
            Wanted::default()
        );
        assert_eq!(sites(&[EventKind::Unanswered]), [""; 0]);
        assert_eq!(sites(&[EventKind::RateLimit]), ["isc_log_write"]);
        assert_eq!(
            sites(&[EventKind::Purge]),
            ["dns_view_flushcache", "dns_view_flushnode"]
        );
        for kind in [EventKind::Cache, EventKind::NsChange, EventKind::Expiry] {
            assert_eq!(
                sites(&[kind]),
                [
                    "dns_view_flushcache",
                    "dns_view_flushnode",
                    "dns_db_addrdataset"
                ]
            );
        }
        let all = Wanted::of(&[Probe::Zone], false, EventKind::ALL.into_iter().collect());
        assert_eq!(all.sites, Site::ALL);
        assert_eq!(
            all.log_categories,
            LOG_RATE_LIMIT | LOG_QUERY_ERRORS | LOG_TRANSFER
        );
    }

    #[test]
    fn remarks_about_client_queries_are_for_who_needs_them() {
        let none = EventKinds::default();
        let of = |names_queries| Wanted::of(&[Probe::Zone], names_queries, none).remarks;
        assert_eq!(of(false) & SERVER_CLIENT_QUERY, 0);
        assert_ne!(of(true) & SERVER_CLIENT_QUERY, 0);
        let encrypted = Wanted::of(&[Probe::Encrypted], true, none);
        assert_eq!((encrypted.remarks, encrypted.encrypted), (0, true));
        assert_eq!(encrypted.sites, [Site::DtSend]);
    }
}
