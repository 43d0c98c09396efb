//! Reduces capabilities to those that are needed.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::NeededPrivileges;

/// Either of these capabilities gives access to eBPF maps.
const MAPS: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN);

/// Capabilities that are enough for attaching probes on some kernels. Other kernels want
/// `CAP_SYS_ADMIN`, which includes both.
const PROBES: CapabilitySet = CapabilitySet::PERFMON.union(CapabilitySet::CHECKPOINT_RESTORE);

/// Reduces this thread's capabilities to those that `privileges` need. If `maps_work` returns false
/// with them, one of [`MAPS`] is kept, too. If probes are needed and `probes_work` returns false
/// with [`PROBES`], `CAP_SYS_ADMIN` is kept instead, if it helps. Returns the capabilities that are
/// left.
pub(super) fn give_up(
    privileges: NeededPrivileges,
    mut maps_work: impl FnMut() -> bool,
    mut probes_work: impl FnMut() -> bool,
) -> io::Result<CapabilitySet> {
    let held = capabilities(None)?.permitted;
    let mut kept = held & needed(privileges);
    // Only the effective set is reduced for this test, so permitted capabilities can be taken back.
    set(kept, held)?;
    if !maps_work() {
        kept |= held
            & if held.contains(CapabilitySet::BPF) {
                CapabilitySet::BPF
            } else {
                MAPS
            };
    }
    if privileges.probes {
        set(kept, held)?;
        if !probes_work() && held.contains(CapabilitySet::SYS_ADMIN) {
            set(kept | CapabilitySet::SYS_ADMIN, held)?;
            // `CAP_SYS_ADMIN` is kept only if it helps.
            kept -= PROBES;
            if probes_work() {
                kept |= CapabilitySet::SYS_ADMIN;
            }
        }
    }
    set(kept, kept)?;
    Ok(kept)
}

/// Returns the capabilities that are needed. They do not depend on the user, and none are added
/// that the process lacks.
fn needed(privileges: NeededPrivileges) -> CapabilitySet {
    let needs = [
        (privileges.paths, CapabilitySet::DAC_OVERRIDE),
        (privileges.owners, CapabilitySet::CHOWN),
        (privileges.modes, CapabilitySet::FOWNER),
        (
            privileges.processes,
            CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH,
        ),
        (privileges.probes, PROBES),
    ];
    needs
        .into_iter()
        .filter_map(|(asked, needed)| asked.then_some(needed))
        .collect()
}

/// Sets the capabilities. None are inheritable, which empties the ambient set, too.
fn set(effective: CapabilitySet, permitted: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets {
        effective,
        permitted,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Prints capabilities for people: `CAP_BPF, CAP_DAC_OVERRIDE`.
pub(super) fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = set
        .iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: CapabilitySet = CapabilitySet::empty();

    /// Returns the capabilities that a thread with `held` keeps; `None` if this process may not
    /// test it (it is not root).
    fn kept(
        held: CapabilitySet,
        privileges: NeededPrivileges,
        maps_need: CapabilitySet,
    ) -> Option<CapabilitySet> {
        kept_with_probes(held, privileges, maps_need, NONE)
    }

    /// Like [`kept`], on a kernel that wants `probes_need` for probes.
    fn kept_with_probes(
        held: CapabilitySet,
        privileges: NeededPrivileges,
        maps_need: CapabilitySet,
        probes_need: CapabilitySet,
    ) -> Option<CapabilitySet> {
        let thread = std::thread::spawn(move || {
            set(held, held).ok()?;
            let works = || {
                maps_need.is_empty()
                    || capabilities(None)
                        .expect("own")
                        .effective
                        .intersects(maps_need)
            };
            let probes_work = || {
                let own = capabilities(None).expect("own").effective;
                own.contains(probes_need)
            };
            let kept = give_up(privileges, works, probes_work).expect("fewer is always allowed");
            let left = capabilities(None).expect("own");
            assert_eq!((left.effective, left.permitted), (kept, kept));
            assert_eq!(left.inheritable, NONE);
            Some(kept)
        });
        thread.join().expect("no panic")
    }

    #[test]
    fn a_tap_that_writes_to_standard_output_keeps_nothing() {
        let root = capabilities(None).expect("own").permitted;
        assert_eq!(kept(root, NeededPrivileges::default(), NONE), Some(NONE));
    }

    #[test]
    fn files_of_others_can_be_opened_again_by_root_alone() {
        let (bpf, files) = (CapabilitySet::BPF, CapabilitySet::DAC_OVERRIDE);
        let paths = NeededPrivileges {
            paths: true,
            ..NeededPrivileges::default()
        };
        let Some(left) = kept(bpf | files, paths, NONE) else {
            return crate::host::skip("only root has capabilities to give up");
        };
        assert_eq!(left, files);
        assert_eq!(kept(bpf, paths, NONE), Some(NONE));
    }

    #[test]
    fn every_duty_has_its_capabilities() {
        let all = NeededPrivileges {
            paths: true,
            owners: true,
            modes: true,
            commands: true,
            processes: true,
            probes: true,
        };
        assert_eq!(
            names(needed(all)),
            "CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_SYS_PTRACE, CAP_PERFMON, CAP_CHECKPOINT_RESTORE"
        );
    }

    #[test]
    fn probes_keep_the_large_privilege_only_where_the_kernel_wants_it() {
        let admin = CapabilitySet::SYS_ADMIN;
        let probes = NeededPrivileges {
            probes: true,
            ..NeededPrivileges::default()
        };
        let kept = |needed| kept_with_probes(PROBES | admin, probes, NONE, needed);
        let Some(left) = kept(PROBES) else {
            return crate::host::skip("only root has capabilities to give up");
        };
        assert_eq!(left, PROBES);
        assert_eq!(kept(admin), Some(admin));
        let beyond = CapabilitySet::SYS_BOOT;
        assert_eq!(kept(beyond), Some(NONE), "it would not help");
        let none = kept_with_probes(PROBES | admin, NeededPrivileges::default(), NONE, admin);
        assert_eq!(none, Some(NONE), "nothing is to be attached");
    }

    #[test]
    fn whoever_sets_modes_cannot_give_files_away() {
        let modes = NeededPrivileges {
            modes: true,
            ..NeededPrivileges::default()
        };
        assert_eq!(names(needed(modes)), "CAP_FOWNER");
    }

    #[test]
    fn what_opens_the_maps_is_kept_where_the_kernel_wants_it() {
        let (bpf, admin) = (CapabilitySet::BPF, CapabilitySet::SYS_ADMIN);
        let Some(left) = kept(bpf | admin, NeededPrivileges::default(), MAPS) else {
            return crate::host::skip("only root has capabilities to give up");
        };
        assert_eq!(left, bpf, "the smaller one is enough");
        assert_eq!(kept(admin, NeededPrivileges::default(), MAPS), Some(admin));
    }
}
