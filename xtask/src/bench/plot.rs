//! The main figure as an SVG picture: CPU above the untapped server, one bar per contender and load.

use std::fmt::Write as _;

use super::figures::{Line, Report, lines};

const LEFT: f64 = 150.0;
const WIDTH: f64 = 420.0;
const BAR: f64 = 16.0;
const ROW: f64 = 24.0;

/// Draws bars of server and helper time above untapped, with the range as a line. `None` if there is nothing to draw.
pub(super) fn svg(report: &Report) -> Option<String> {
    let sections: Vec<_> = report
        .sections
        .iter()
        .map(|results| (results.load.name(), lines(results)))
        .collect();
    let largest = sections
        .iter()
        .flat_map(|(_, lines)| lines.iter().map(|line| line.above.max))
        .fold(0.0, f64::max);
    if largest <= 0.0 {
        return None;
    }
    let mut body = String::new();
    let mut y = 20.0;
    for (load, lines) in &sections {
        y += 22.0;
        writeln!(
            body,
            r#"<text x="8" y="{y}" font-weight="bold">{load}</text>"#
        )
        .ok()?;
        y += 8.0;
        for line in lines.iter().filter(|line| line.name != "untapped") {
            bar(&mut body, line, y, WIDTH / largest)?;
            y += ROW;
        }
    }
    let (width, height) = (LEFT + WIDTH + 120.0, y + 24.0);
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"20\">CPU above the untapped server, µs per message: <tspan fill=\"#1f6f8b\">server</tspan>, \
         <tspan fill=\"#e08e45\">helper</tspan>; medians, lines from smallest to largest</text>\n{body}</svg>\n"
    ))
}

fn bar(body: &mut String, line: &Line, y: f64, scale: f64) -> Option<()> {
    let server = line.server_above.median.max(0.0) * scale;
    let whole = (line.above.median.max(0.0) * scale).max(server);
    let (middle, text) = (y + BAR / 2.0, y + 13.0);
    let (from, to) = (
        LEFT + line.above.min.max(0.0) * scale,
        LEFT + line.above.max.max(0.0) * scale,
    );
    writeln!(
        body,
        r##"<text x="{:.0}" y="{text}" text-anchor="end">{}</text><rect x="{LEFT}" y="{y}" width="{server:.1}" height="{BAR}" fill="#1f6f8b"/><rect x="{:.1}" y="{y}" width="{:.1}" height="{BAR}" fill="#e08e45"/><path d="M{from:.1} {middle}H{to:.1}" stroke="#333"/><text x="{:.1}" y="{text}">{:.2}</text>"##,
        LEFT - 6.0,
        line.name,
        LEFT + server,
        whole - server,
        to.max(LEFT + whole) + 6.0,
        line.above.median,
    )
    .ok()
}
