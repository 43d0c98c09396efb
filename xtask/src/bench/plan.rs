//! The plan: loads, and for each the contenders and the rounds. It uses the hooks that the kernel accepts. If few
//! contenders run, the first hook, which `attach` chooses by itself, stands for all.

use super::{Args, contender::Contender, load::Load};

/// One load with all its contenders.
pub(super) struct Section {
    pub(super) load: Load,
    pub(super) contenders: Vec<Contender>,
    pub(super) rounds: u32,
    /// Duration of one run's load in seconds.
    pub(super) seconds: u32,
}

/// Returns the plan, restricted by the command line.
pub(super) fn sections(args: &Args, hooks: &[String]) -> Vec<Section> {
    let (main, side) = if args.quick { (3, 1) } else { (7, 3) };
    let seconds = 2;
    let mut taps = hooks
        .iter()
        .flat_map(|hook| ["bpf", "perf"].map(|ring| Contender::tap(hook, ring)));
    let few: Vec<_> = [Contender::Untapped, Contender::OwnDnstap]
        .into_iter()
        .chain(taps.next())
        .collect();
    let probes: Vec<_> = few
        .iter()
        .cloned()
        .chain(
            hooks
                .first()
                .into_iter()
                .flat_map(|hook| Contender::probes(hook)),
        )
        .collect();
    let all: Vec<_> = few
        .iter()
        .cloned()
        .chain(hooks.first().map(|hook| Contender::low_latency(hook)))
        .chain(taps)
        .chain([Contender::Tcpdump, Contender::Dnscap])
        .collect();
    let wanted = |load: Load| {
        let every = !args.quick && matches!(load, Load::Rate(20_000) | Load::Saturation);
        let rounds = match load {
            Load::Rate(20_000) | Load::Saturation => main,
            Load::Recursive if args.probes => main,
            _ => side,
        };
        let contenders = if args.probes {
            &probes[..]
        } else if every || args.contender.is_some() {
            &all[..]
        } else {
            &few[..]
        };
        Section {
            load,
            contenders: contenders
                .iter()
                .filter(|contender| {
                    let named = |text: &String| contender.name().contains(text.as_str());
                    contender.is_reference() || args.contender.as_ref().is_none_or(named)
                })
                .cloned()
                .collect(),
            rounds: args.rounds.unwrap_or(rounds),
            seconds,
        }
    };
    [
        Load::Rate(20_000),
        Load::Saturation,
        Load::Rate(2_000),
        Load::Tcp,
        Load::Large,
        Load::Recursive,
    ]
    .into_iter()
    .filter(|load| !args.probes || matches!(load, Load::Rate(20_000) | Load::Recursive))
    .filter(|load| {
        args.load
            .as_ref()
            .is_none_or(|text| load.name().contains(text.as_str()))
    })
    .map(wanted)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accepted_hook_is_measured_and_the_first_under_every_load() {
        let args = Args::default();
        let sections = sections(&args, &["fentry".to_owned(), "syscall".to_owned()]);
        let names = |load: Load| -> Vec<_> {
            let section = sections.iter().find(|section| section.load == load);
            let contenders = &section.expect("a section").contenders;
            contenders.iter().map(Contender::name).collect()
        };
        assert_eq!(
            names(Load::Saturation),
            [
                "untapped",
                "own dnstap",
                "tap fentry/bpf",
                "tap fentry/bpf --interval 1",
                "tap fentry/perf",
                "tap syscall/bpf",
                "tap syscall/perf",
                "tcpdump",
                "dnscap",
            ]
        );
        assert_eq!(
            names(Load::Tcp),
            ["untapped", "own dnstap", "tap fentry/bpf"]
        );
    }

    #[test]
    fn each_probe_is_measured_beside_the_tap_without_it() {
        let args = Args {
            probes: true,
            ..Args::default()
        };
        let sections = sections(&args, &["socket".to_owned()]);
        assert_eq!(sections.len(), 2);
        for section in sections {
            let names: Vec<_> = section.contenders.iter().map(Contender::name).collect();
            assert_eq!(
                names[2..4],
                ["tap socket/bpf", "tap socket/bpf --probe zone"]
            );
            assert_eq!(names.len(), 9);
            assert_eq!(section.rounds, 7);
        }
    }
}
