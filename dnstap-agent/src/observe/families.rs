//! Construction of Prometheus metric families: names, help and values, without knowledge of what
//! they count.

use prometheus::{
    TextEncoder,
    proto::{self, LabelPair, Metric, MetricFamily, MetricType},
};

/// A value with labels.
pub(crate) type Sample<'a> = (Vec<(&'static str, &'a str)>, f64);

/// Wraps a value without labels.
pub(super) fn alone(value: f64) -> Vec<Sample<'static>> {
    vec![(Vec::new(), value)]
}

/// Metric families under construction.
#[derive(Debug, Default)]
pub(crate) struct Families(pub(super) Vec<MetricFamily>);

impl Families {
    /// Encodes the families in the text format ([`prometheus::TEXT_FORMAT`]).
    pub(crate) fn encode(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.0)
    }

    pub(crate) fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'a>>,
    ) {
        let metrics = samples.into_iter().map(|(pairs, value)| {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            let mut metric = Metric::from_label(labels(&pairs));
            metric.set_counter(counter);
            metric
        });
        let metrics = metrics.collect();
        self.add(&format!("{name}_total"), help, MetricType::COUNTER, metrics);
    }

    pub(crate) fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'a>>,
    ) {
        let metrics = samples.into_iter().map(|(pairs, value)| {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            let mut metric = Metric::from_label(labels(&pairs));
            metric.set_gauge(gauge);
            metric
        });
        let metrics = metrics.collect();
        self.add(name, help, MetricType::GAUGE, metrics);
    }

    /// Adds a family, unless it has no samples.
    pub(super) fn add(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(format!("dnstap_agent_{name}"));
        family.set_help(help.trim().to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

pub(super) fn labels(pairs: &[(&'static str, &str)]) -> Vec<LabelPair> {
    let pairs = pairs.iter().map(|&(name, value)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    });
    pairs.collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format has floating point numbers only; they are exact up to 2^53"
)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
