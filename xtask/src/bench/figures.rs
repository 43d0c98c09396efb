//! Condenses the figures of all runs to one line for each contender under each load.

use super::{
    contender::Contender,
    run::{Results, Run},
    stats::{Ratio, Summary, ratio, summary},
    tools::Speeds,
};

/// All measurements.
pub(super) struct Report {
    pub(super) machine: Vec<(&'static str, String)>,
    pub(super) seconds: u64,
    pub(super) sections: Vec<Results>,
    /// Speeds of the other commands, if they were measured.
    pub(super) tools: Option<Speeds>,
}

/// The figures of one contender under one load, over all rounds.
#[derive(Default)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) named_user: Summary,
    pub(super) named_system: Summary,
    pub(super) helper: Summary,
    /// CPU time of server and helper above that of the untapped server, in microseconds per message.
    pub(super) above: Summary,
    /// CPU time of only the server above that of the untapped one.
    pub(super) server_above: Summary,
    /// `above` divided by that of the server's own dnstap.
    pub(super) of_own: Option<Ratio>,
    /// `server_above` divided by that of the server's own dnstap.
    pub(super) server_of_own: Option<Ratio>,
    pub(super) queries_per_second: Summary,
    /// Queries per second divided by those of the untapped server.
    pub(super) relative: Summary,
    pub(super) loss: Option<Summary>,
    pub(super) memory: Option<Summary>,
    pub(super) delay_ms: Option<[Summary; 2]>,
    pub(super) start_ms: Option<Summary>,
}

/// Returns the figures of a section. Each round is compared with its own untapped run.
pub(super) fn lines(results: &Results) -> Vec<Line> {
    let runs_of = |wanted: &Contender| {
        results
            .contenders
            .iter()
            .find(|(contender, _)| contender == wanted)
            .map_or(&[][..], |(_, runs)| runs)
    };
    let (untapped, own) = (
        runs_of(&Contender::Untapped),
        runs_of(&Contender::OwnDnstap),
    );
    results
        .contenders
        .iter()
        .map(|(contender, runs)| line(contender, runs, untapped, own))
        .collect()
}

fn line(contender: &Contender, runs: &[Run], untapped: &[Run], own: &[Run]) -> Line {
    let each = |figure: &dyn Fn(&Run) -> f64| summary(runs.iter().map(figure)).unwrap_or_default();
    let paired = |figure: &dyn Fn(&Run, &Run) -> f64| {
        summary(
            runs.iter()
                .zip(untapped)
                .map(|(run, base)| figure(run, base)),
        )
        .unwrap_or_default()
    };
    let user = |run: &Run| {
        let mut cpu = run.named;
        cpu.system = 0;
        run.micros(cpu)
    };
    let of_own = |figure: fn(&Run) -> f64| {
        if *contender == Contender::Untapped {
            return None;
        }
        let above = move |(run, base)| figure(run) - figure(base);
        let owns = own.iter().zip(untapped).map(above);
        ratio(runs.iter().zip(untapped).map(above).zip(owns))
    };
    let delay = |which: usize| {
        summary(
            runs.iter()
                .filter_map(|run| Some(run.delay_ns?[which] as f64 / 1e6)),
        )
    };
    Line {
        name: contender.name(),
        named_user: each(&user),
        named_system: each(&|run| run.server() - user(run)),
        helper: each(&|run| run.micros(run.helper)),
        above: paired(&|run, base| run.total() - base.total()),
        server_above: paired(&|run, base| run.server() - base.server()),
        of_own: of_own(Run::total),
        server_of_own: of_own(Run::server),
        queries_per_second: each(&|run| run.queries_per_second),
        relative: paired(&|run, base| run.queries_per_second / base.queries_per_second),
        loss: summary(runs.iter().filter_map(Run::loss)),
        memory: summary(
            runs.iter()
                .filter_map(|run| Some(run.memory? as f64 / f64::from(1 << 20))),
        ),
        delay_ms: delay(0).zip(delay(1)).map(<[Summary; 2]>::from),
        start_ms: summary(
            runs.iter()
                .filter_map(|run| Some(run.start?.as_secs_f64() * 1e3)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{load::Load, process::Cpu};

    #[test]
    fn costs_above_untapped_are_compared_with_those_of_own_dnstap() {
        let results = results([[10, 0], [12, 2], [11, 5]]);
        let lines = lines(&results);
        let [untapped, own, tap] = &lines[..] else {
            panic!("{} lines", lines.len());
        };
        assert_eq!((untapped.of_own, untapped.server_of_own), (None, None));
        assert_eq!(own.of_own.map(|ratio| ratio.of_medians), Some(1.0));
        assert_eq!(tap.of_own.map(|ratio| ratio.of_medians), Some(1.5));
        let expected = Ratio {
            of_medians: 0.5,
            range: Some([0.5; 2]),
        };
        assert_eq!(tap.server_of_own, Some(expected));
    }

    #[test]
    fn nothing_is_compared_with_what_costs_nothing() {
        let lines = lines(&results([[10, 0], [9, 2], [11, 5]]));
        assert_eq!(lines[2].of_own.map(|ratio| ratio.of_medians), Some(6.0));
        assert_eq!(lines[2].server_of_own, None);
    }

    /// Makes rounds of untapped, own dnstap and a tap, each with the microseconds of server and helper per message.
    fn results(micros: [[u64; 2]; 3]) -> Results {
        let contenders = [
            Contender::Untapped,
            Contender::OwnDnstap,
            Contender::tap("socket", "bpf"),
        ];
        let cpu = |micros: u64| Cpu {
            user: 0,
            system: 1_000 * micros,
        };
        Results {
            load: Load::Saturation,
            seconds: 2,
            contenders: contenders
                .into_iter()
                .zip(micros)
                .map(|(contender, [named, helper])| {
                    let run = Run {
                        messages: 1,
                        named: cpu(named),
                        helper: cpu(helper),
                        ..Run::default()
                    };
                    (contender, vec![run])
                })
                .collect(),
        }
    }
}
