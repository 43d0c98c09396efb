//! What is measured: loads, and for each the contenders and the rounds.

use super::{Args, contender::Contender, load::Load};

/// One load with all its contenders.
pub(super) struct Section {
    pub(super) load: Load,
    pub(super) contenders: Vec<Contender>,
    pub(super) rounds: u32,
    /// Of one run's load.
    pub(super) seconds: u32,
}

/// The plan, as far as the command line does not narrow it.
pub(super) fn sections(args: &Args) -> Vec<Section> {
    let (main, side) = if args.quick { (3, 1) } else { (7, 3) };
    let seconds = 2;
    let few = [
        Contender::Untapped,
        Contender::OwnDnstap,
        Contender::tap("socket", "bpf"),
    ];
    let more = [
        Contender::LOW_LATENCY,
        Contender::tap("socket", "perf"),
        Contender::tap("syscall", "bpf"),
        Contender::tap("syscall", "perf"),
        Contender::Tcpdump,
        Contender::Dnscap,
    ];
    let all: Vec<_> = few.iter().chain(&more).cloned().collect();
    let wanted = |load: Load| {
        let every = !args.quick && matches!(load, Load::Rate(20_000) | Load::Saturation);
        let rounds = match load {
            Load::Rate(20_000) | Load::Saturation => main,
            _ => side,
        };
        let contenders = if every || args.contender.is_some() {
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
    .filter(|load| {
        args.load
            .as_ref()
            .is_none_or(|text| load.name().contains(text.as_str()))
    })
    .map(wanted)
    .collect()
}
