//! Plots as SVG within HTML. The colours suit a light page; on a dark page the style sheet replaces
//! them by value.

use std::{fmt::Write as _, ops::Range};

use jiff::Timestamp;
use maud::{Markup, PreEscaped, html};
use plotters::{
    coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
    prelude::{
        ChartBuilder, Circle, DrawingAreaErrorKind, IntoDrawingArea as _, IntoFont as _,
        LineSeries, RGBColor, Rectangle, SVGBackend, TRANSPARENT,
    },
    style::{Color as _, TextStyle},
};

/// Width and height in units that scale with the page.
const SIZE: (u32, u32) = (960, 260);

/// Colours of texts and axes, which `style.css` repeats.
const INK: RGBColor = RGBColor(0x52, 0x51, 0x4E);
const GRID: RGBColor = RGBColor(0xE1, 0xE0, 0xD9);

/// Colours of series, which `style.css` repeats. The most different ones come first.
pub(super) const COLOURS: [RGBColor; 8] = [
    RGBColor(0x2A, 0x78, 0xD6),
    RGBColor(0x1B, 0xAF, 0x7A),
    RGBColor(0xED, 0xA1, 0x00),
    RGBColor(0x4A, 0x3A, 0xA7),
    RGBColor(0xE3, 0x49, 0x48),
    RGBColor(0xE8, 0x7B, 0xA4),
    RGBColor(0xEB, 0x68, 0x34),
    RGBColor(0x8A, 0x88, 0x80),
];

/// A line with fewer points than this has a dot for each.
const FEW: usize = 30;

/// A line, or bars of one colour.
pub(super) struct Series {
    pub(super) name: String,
    /// Heights, from left to right.
    pub(super) values: Vec<f64>,
}

/// Renders a plot with a legend above it; nothing if no value is above 0.
pub(super) fn lines(title: &str, unit: &str, times: &[f64], series: &[Series]) -> Markup {
    let (Some(begin), Some(end)) = (times.first(), times.last()) else {
        return html! {};
    };
    if times.len() < 2 {
        return html! { p.note { "All messages are of the same moment." } };
    }
    let axis = Axis {
        range: *begin..*end,
        ticks: time_ticks(*begin, *end),
    };
    figure(title, unit, series, |svg| {
        draw(
            svg,
            axis,
            &|at| time_label(at, end - begin),
            series,
            Some(times),
        )
    })
}

/// Renders groups of bars, one group for each of the names.
pub(super) fn bars(title: &str, unit: &str, names: &[String], series: &[Series]) -> Markup {
    let ticks: Vec<f64> = (0..names.len()).map(|nth| index(nth) + 0.5).collect();
    let axis = Axis {
        range: 0.0..ticks.last().map_or(1.0, |last| last + 0.5),
        ticks: ticks.clone(),
    };
    // The tick of a group is at its middle.
    let middles = ticks;
    let name = |at: f64| {
        let nth = middles.iter().position(|middle| (middle - at).abs() < 0.5);
        nth.and_then(|nth| names.get(nth).cloned())
            .unwrap_or_default()
    };
    figure(title, unit, series, |svg| {
        draw(svg, axis, &name, series, None)
    })
}

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn figure(
    title: &str,
    unit: &str,
    series: &[Series],
    draw: impl FnOnce(&mut String) -> Drawn,
) -> Markup {
    if !series
        .iter()
        .flat_map(|one| &one.values)
        .any(|value| *value > 0.0)
    {
        return html! {};
    }
    let mut svg = String::new();
    let drawn = draw(&mut svg);
    // The page determines the size, so the picture must not.
    let fixed = format!("width=\"{}\" height=\"{}\"", SIZE.0, SIZE.1);
    let svg = svg.replacen(&fixed, "aria-hidden=\"true\"", 1);
    html! {
        figure role="img" aria-label=(title) {
            figcaption {
                span.unit { (unit) }
                @for (nth, one) in series.iter().enumerate() {
                    span.key { span class={ "swatch c" (nth % COLOURS.len()) } {} (one.name) }
                }
            }
            @match drawn {
                Ok(()) => (PreEscaped(svg)),
                Err(error) => p.note { "This plot could not be drawn: " (error) },
            }
        }
    }
}

/// Draws lines through the values at these times, or bars without times.
fn draw(
    svg: &mut String,
    axis: Axis,
    label: &dyn Fn(f64) -> String,
    series: &[Series],
    times: Option<&[f64]>,
) -> Drawn {
    let values = series.iter().flat_map(|one| one.values.iter().copied());
    let top = values.fold(0.0, f64::max) * 1.05;
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(24)
        .y_label_area_size(56)
        .build_cartesian_2d(axis, 0.0..top)?;
    let text = TextStyle::from(("sans-serif", 12).into_font()).color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(text)
        .y_labels(5)
        .x_label_formatter(&|at| label(*at))
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    let share = 0.8 / index(series.len().max(1));
    for ((nth, one), colour) in series.iter().enumerate().zip(COLOURS.iter().cycle()) {
        if let Some(times) = times {
            let points = || times.iter().copied().zip(one.values.iter().copied());
            chart.draw_series(LineSeries::new(points(), colour.stroke_width(2)))?;
            if times.len() < FEW {
                chart.draw_series(points().map(|point| Circle::new(point, 3, colour.filled())))?;
            }
        } else {
            let bar = |(at, value): (usize, &f64)| {
                let left = index(at) + 0.1 + index(nth) * share;
                let corners = [(left, 0.0), (left + share * 0.92, *value)];
                Rectangle::new(corners, colour.filled())
            };
            chart.draw_series(one.values.iter().enumerate().map(bar))?;
        }
    }
    drop(chart);
    area.present()
}

/// An axis with labels at given positions.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "pixels of a plot")]
    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        from + (f64::from(to - from) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.max_num_points() == 0 {
            return Vec::new();
        }
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Possible distances between time labels, in seconds.
const STEPS: [f64; 26] = [
    0.001,
    0.005,
    0.01,
    0.05,
    0.1,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    15.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    1_800.0,
    3_600.0,
    10_800.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    604_800.0,
    2_592_000.0,
    31_536_000.0,
];

/// Most time labels.
const TICKS: f64 = 9.0;

/// Returns round times between two times, in seconds since 1970.
fn time_ticks(begin: f64, end: f64) -> Vec<f64> {
    let span = end - begin;
    let step = STEPS.into_iter().find(|step| span / step <= TICKS);
    let step = step.unwrap_or(span / TICKS);
    let first = (begin / step).ceil() * step;
    (0_u8..)
        .map(|nth| first + f64::from(nth) * step)
        .take_while(|tick| *tick <= end)
        .take(12)
        .collect()
}

/// Formats a time in UTC, as precisely as a plot over this many seconds needs.
#[expect(clippy::cast_possible_truncation, reason = "times are near ours")]
fn time_label(at: f64, span: f64) -> String {
    let Ok(time) = Timestamp::from_millisecond((at * 1e3).round() as i64) else {
        return format!("@{at}");
    };
    let form = match span {
        ..10.0 => "%H:%M:%S.%3f",
        ..3_600.0 => "%H:%M:%S",
        ..86_400.0 => "%H:%M",
        ..864_000.0 => "%m-%d %H:%M",
        _ => "%Y-%m-%d",
    };
    time.strftime(form).to_string()
}

/// Formats a value in about three digits, such as `1.5k` for 1500.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        1e9.. => (value / 1e9, "G"),
        1e6.. => (value / 1e6, "M"),
        1e4.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let mut text = String::new();
    // Writing to a string does not fail.
    if value < 10.0 && value.fract() != 0.0 {
        write!(text, "{value:.2}{unit}").unwrap_or_default();
    } else {
        write!(text, "{value:.0}{unit}").unwrap_or_default();
    }
    text
}

/// Converts a small number.
pub(super) fn index(nth: usize) -> f64 {
    u32::try_from(nth).map_or(f64::MAX, f64::from)
}
