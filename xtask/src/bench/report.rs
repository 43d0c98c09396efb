//! The report: figures of all runs, condensed for people and complete for programs.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    figures::{Report, lines},
    plot,
    run::{Results, Run},
    stats::{Ratio, Summary},
    table,
};

impl Report {
    /// Returns names and contents of the files.
    pub(super) fn files(&self) -> Result<Vec<(String, String)>> {
        let json = serde_json::to_string_pretty(&self.to_json())? + "\n";
        let mut files = vec![
            ("results.json".to_owned(), json),
            ("results.md".to_owned(), table::markdown(self)),
        ];
        if let Some(svg) = plot::svg(self) {
            files.push(("cpu.svg".to_owned(), svg));
        }
        Ok(files)
    }

    fn to_json(&self) -> Value {
        let machine: serde_json::Map<_, _> = self
            .machine
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
            .collect();
        let sections: Vec<_> = self.sections.iter().map(section).collect();
        let tools: serde_json::Map<_, _> = self
            .tools
            .iter()
            .flat_map(|speeds| &speeds.0)
            .map(|(name, speed)| ((*name).to_owned(), range(*speed)))
            .collect();
        json!({
            "machine": machine,
            "seconds": self.seconds,
            "loads": sections,
            "tools_messages_per_second": tools,
        })
    }
}

fn section(results: &Results) -> Value {
    let contenders: Vec<_> = results
        .contenders
        .iter()
        .zip(lines(results))
        .map(|((_, runs), line)| {
            json!({
                "name": line.name,
                "cpu_above_untapped_us": range(line.above),
                "server_cpu_above_untapped_us": range(line.server_above),
                "cpu_relative_to_own_dnstap": line.of_own.map(relation),
                "server_cpu_relative_to_own_dnstap": line.server_of_own.map(relation),
                "queries_relative_to_untapped": range(line.relative),
                "loss": line.loss.map(range),
                "runs": runs.iter().map(run).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({"load": results.load.name(), "seconds": results.seconds, "contenders": contenders})
}

fn range(summary: Summary) -> Value {
    json!({"median": summary.median, "min": summary.min, "max": summary.max})
}

fn relation(ratio: Ratio) -> Value {
    let [min, max] = ratio.range.map_or([None; 2], |range| range.map(Some));
    json!({"of_medians": ratio.of_medians, "min": min, "max": max})
}

fn run(run: &Run) -> Value {
    json!({
        "messages": run.messages,
        "delivered": run.delivered,
        "unanswered_queries": run.unanswered,
        "queries_per_second": run.queries_per_second,
        "named_user_ns": run.named.user,
        "named_system_ns": run.named.system,
        "helper_user_ns": run.helper.user,
        "helper_system_ns": run.helper.system,
        "load_generator_ns": run.loader.sum(),
        "helper_peak_memory_bytes": run.memory,
        "delay_p50_ns": run.delay_ns.map(|delay| delay[0]),
        "delay_p99_ns": run.delay_ns.map(|delay| delay[1]),
        "start_ms": run.start.map(|start| start.as_secs_f64() * 1e3),
    })
}
