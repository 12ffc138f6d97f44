//! Plots as SVG, for screen and paper: bars with their values beside them, and lines over a logarithmic axis.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::record::grouped;

const INK: RGBColor = RGBColor(34, 34, 34);
const PALE: RGBColor = RGBColor(221, 221, 221);
const FONT: &str = "Helvetica, Arial, sans-serif";

/// One bar: what it is of, how long it is, from where to where single rounds went, and what is written beside it.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    pub(crate) range: (f64, f64),
    pub(crate) text: String,
}

/// One line, through points in ascending order.
pub(crate) struct Line {
    pub(crate) label: String,
    pub(crate) points: Vec<(f64, f64)>,
}

type Drawn<T> = Result<T, Box<dyn std::error::Error>>;

/// Horizontal bars from 0, the first one on top.
///
/// # Errors
///
/// If plotters cannot draw.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> Drawn<String> {
    const WIDTH: u32 = 680;
    const LEFT: i32 = 150;
    const STEP: i32 = 26;
    let height = 44 + STEP * i32::try_from(bars.len())?;
    let most = bars.iter().map(|bar| bar.range.1).fold(f64::MIN_POSITIVE, f64::max);
    let at = |value: f64| LEFT + (value / most * 360.0) as i32;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, u32::try_from(height)?)).into_drawing_area();
        area.draw(&Text::new(title.to_owned(), (8, 8), (FONT, 16).into_font().style(FontStyle::Bold).color(&INK)))?;
        for (index, bar) in (0i32..).zip(bars) {
            let (top, middle) = (38 + STEP * index, 38 + STEP * index + 9);
            let style = (FONT, 13).into_font().color(&INK);
            let right = style.pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(bar.label.clone(), (LEFT - 8, middle), right))?;
            let colour = colour(&bar.label);
            area.draw(&Rectangle::new([(LEFT, top), (at(bar.value), top + 18)], colour.filled()))?;
            let ends = [(at(bar.range.0), middle), (at(bar.range.1), middle)];
            area.draw(&PathElement::new(ends, INK.stroke_width(1)))?;
            let left = (FONT, 13).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(bar.text.clone(), (at(bar.range.1) + 8, middle), left))?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// Lines over a logarithmic axis, from 0 upwards.
///
/// # Errors
///
/// If plotters cannot draw.
pub(crate) fn lines(title: &str, below: &str, beside: &str, lines: &[Line]) -> Drawn<String> {
    let xs = || lines.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x));
    let (first, last) = (xs().fold(f64::INFINITY, f64::min), xs().fold(1.0, f64::max));
    let most = lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y)).fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (680, 360)).into_drawing_area();
        // The labels stand at the lines' ends.
        let mut chart = ChartBuilder::on(&area)
            .caption(title, (FONT, 16).into_font().style(FontStyle::Bold).color(&INK))
            .margin(8)
            .margin_right(120)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d((first..last.max(first + 1.0)).log_scale(), 0.0..most * 1.08)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .bold_line_style(PALE)
            .x_desc(below)
            .y_desc(beside)
            .x_labels(6)
            .x_label_formatter(&|x| grouped(x.round() as u64))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .label_style((FONT, 12).into_font().color(&INK))
            .draw()?;
        let mut taken: Vec<i32> = Vec::new();
        for line in lines {
            let is_whole = line.points.last().is_some_and(|(x, _)| *x >= last);
            draw(&mut chart, &area, line, is_whole, &mut taken)?;
        }
        area.present()?;
    }
    Ok(svg)
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, RangedCoordf64>>;

/// Draws a line and writes its name at its end, where nothing else is `taken`.
fn draw<'b>(
    chart: &mut Chart<'_, 'b>,
    area: &DrawingArea<SVGBackend<'b>, plotters::coord::Shift>,
    line: &Line,
    is_whole: bool,
    taken: &mut Vec<i32>,
) -> Drawn<()> {
    const APART: i32 = 14;
    let colour = colour(&line.label);
    chart.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
    chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
    let Some(last) = line.points.last() else { return Ok(()) };
    let (x, mut y) = chart.backend_coord(last);
    if !is_whole {
        // Other lines go on beside its end.
        y += APART;
    }
    while let Some(near) = taken.iter().find(|other| (*other - y).abs() < APART) {
        y = near + APART;
    }
    taken.push(y);
    let style = (FONT, 12).into_font().color(&colour).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(line.label.clone(), (x + 8, y), style))?;
    Ok(())
}

/// netpath stands out; the others can be told apart in grey print by their labels.
fn colour(name: &str) -> RGBColor {
    match name {
        "netpath" => RGBColor(0, 104, 116),
        "netpath-range" => RGBColor(64, 150, 160),
        "netpath-off" | "netpath-1" => RGBColor(122, 178, 184),
        "netpath-xdp" => RGBColor(64, 150, 160),
        "host" | "forward" => RGBColor(150, 150, 150),
        "iptables-nft" | "docker" => RGBColor(190, 90, 40),
        "iptables-legacy" | "docker-proxy" | "docker-no-proxy" => RGBColor(214, 140, 90),
        "nftables" => RGBColor(150, 110, 40),
        _ => RGBColor(190, 190, 190),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_lines_carry_their_labels() {
        let bar = Bar { label: "netpath".to_owned(), value: 2.0, range: (1.0, 3.0), text: "2 k/s".to_owned() };
        let svg = bars("Rates", &[bar]).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("netpath") && svg.contains("2 k/s"));
        let line = Line { label: "nftables".to_owned(), points: vec![(1.0, 5.0), (60_000.0, 4.0)] };
        let svg = lines("Ports", "ports", "k/s", &[line]).unwrap();
        assert!(svg.contains("nftables") && svg.contains("polyline"));
    }
}
