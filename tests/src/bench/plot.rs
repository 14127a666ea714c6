//! Curves of what was found, as SVG.

use std::path::Path as FilePath;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::cell::{Cell, KIB};
use crate::growth::Growth;
use crate::path::Path;
use crate::result::{Found, Kind};

const SIZE: (u32, u32) = (860, 480);
const FONT: &str = "sans-serif";

/// One for each way, told apart without colour vision as well (Okabe and Ito's, and grey).
const COLOURS: [RGBColor; 9] = [
    RGBColor(0, 0, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(150, 200, 150),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(128, 128, 128),
];

pub(crate) struct Plot {
    /// Of the file, without its ending.
    pub(crate) name: &'static str,
    pub(crate) title: String,
    x: &'static str,
    y: &'static str,
    /// Both axes, or x alone.
    both_logarithmic: bool,
    lines: Vec<Line>,
}

struct Line {
    label: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// All plots for which something was measured.
pub(crate) fn all(found: &Found) -> Vec<Plot> {
    let mut plots =
        vec![connections(found), sizes(found), processors(found), times(found), idle(found), growth(found)];
    for plot in &mut plots {
        plot.lines.retain(|line| line.points.len() > 1);
    }
    plots.retain(|plot| !plot.lines.is_empty());
    plots
}

fn lines(found: &Found, points: impl Fn(Path) -> Vec<(f64, f64)>) -> Vec<Line> {
    let line = |path: &Path| {
        let number = Path::ALL.iter().position(|one| one == path).unwrap_or_default();
        Line { label: path.name(), colour: COLOURS[number % COLOURS.len()], points: points(*path) }
    };
    found.paths.iter().map(line).collect()
}

fn growth(found: &Found) -> Plot {
    let line = |(growth, colour): (&Growth, &RGBColor)| Line {
        label: growth.what.name(),
        colour: *colour,
        points: growth.medians().map(|(level, rate, _)| (level as f64, rate)).collect(),
    };
    Plot {
        name: "growth",
        title: "Messages a second of 4 KiB through weir and a filter, with more and more of something".into(),
        x: "how many",
        y: "messages a second",
        both_logarithmic: false,
        lines: found.growth.iter().zip(&COLOURS).map(line).collect(),
    }
}

/// One value for each cell of a kind.
fn over(
    found: &Found,
    chosen: impl Fn(&Cell) -> bool,
    x: impl Fn(&Cell) -> f64,
    y: impl Fn(Cell) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let cells = found.cells.iter().filter(|cell| chosen(cell));
    cells.filter_map(|cell| Some((x(cell), y(*cell)?))).collect()
}

fn connections(found: &Found) -> Plot {
    let chosen = |cell: &Cell| cell.size == 4 * KIB && !cell.many;
    let points =
        |path| over(found, chosen, |cell| f64::from(cell.connections), |cell| found.rate(path, cell));
    Plot {
        name: "rate-by-connections",
        title: "Messages a second of 4 KiB, one for each connection".into(),
        x: "connections at a time",
        y: "messages a second",
        both_logarithmic: false,
        lines: lines(found, points),
    }
}

fn of_sizes(cell: &Cell) -> bool {
    cell.connections == 10 && !cell.many
}

fn kibibytes(cell: &Cell) -> f64 {
    f64::from(cell.size / KIB)
}

fn sizes(found: &Found) -> Plot {
    let points = |path| over(found, of_sizes, kibibytes, |cell| found.ratio(path, Path::Direct, cell));
    Plot {
        name: "rate-by-size",
        title: "Messages a second, of the direct way's, at 10 connections".into(),
        x: "KiB of a message",
        y: "of direct",
        both_logarithmic: false,
        lines: lines(found, points),
    }
}

fn processors(found: &Found) -> Plot {
    let on_gateway = |path: Path, cell: Cell| -> Option<f64> {
        let parts = found.parts(path).into_iter().filter(|part| part != "nodes");
        let sum: f64 = parts.map(|part| found.cpu(path, &part, cell)).sum::<Option<f64>>()?;
        (sum > 0.0).then_some(sum)
    };
    let points = |path| over(found, of_sizes, kibibytes, |cell| on_gateway(path, cell));
    Plot {
        name: "cpu-by-size",
        title: "Milliseconds of a processor for a message, of the programs on the gateway".into(),
        x: "KiB of a message",
        y: "ms",
        both_logarithmic: true,
        lines: lines(found, points),
    }
}

fn times(found: &Found) -> Plot {
    let points = |path| {
        let shares = [(2.0, 500), (10.0, 900), (100.0, 990), (1000.0, 999)];
        let time = |(one_of, per_mille)| Some((one_of, found.within(path, Kind::Coming, per_mille)?));
        shares.into_iter().filter_map(time).collect()
    };
    Plot {
        name: "time-of-a-message",
        title: "Time of a message of 4 KiB that comes when it comes".into(),
        x: "all but one of so many messages",
        y: "ms",
        both_logarithmic: true,
        lines: lines(found, points),
    }
}

fn idle(found: &Found) -> Plot {
    let points = |path| {
        let levels = found.idle_of(path).iter();
        // There is no nothing on this axis.
        let levels = levels.filter(|one| one.sessions > 0);
        levels.map(|one| (one.sessions as f64, one.resident as f64 / 1024.0)).collect()
    };
    Plot {
        name: "idle-sessions",
        title: "Memory of idle sessions, resident".into(),
        x: "sessions",
        y: "MB",
        both_logarithmic: false,
        lines: lines(found, points),
    }
}

impl Plot {
    pub(crate) fn draw(&self, file: &FilePath) -> Result<()> {
        let area = SVGBackend::new(file, SIZE).into_drawing_area();
        self.draw_on(&area).map_err(|error| anyhow!("{}: {error}", file.display()))
    }

    fn draw_on<'a>(
        &self,
        area: &DrawingArea<SVGBackend<'a>, Shift>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MIN, f64::max);
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MAX, f64::min);
        let x = least(&mut points().map(|(x, _)| x))..most(&mut points().map(|(x, _)| x));
        let top = most(&mut points().map(|(_, y)| y)) * 1.1;
        let mut builder = ChartBuilder::on(area);
        builder.caption(&self.title, (FONT, 18)).margin(14).x_label_area_size(44).y_label_area_size(70);
        if self.both_logarithmic {
            let bottom = least(&mut points().map(|(_, y)| y)) / 1.1;
            self.fill(builder.build_cartesian_2d(x.log_scale(), (bottom..top).log_scale())?)?;
        } else {
            self.fill(builder.build_cartesian_2d(x.log_scale(), 0.0..top)?)?;
        }
        area.present()?;
        Ok(())
    }

    fn fill<'a, X, Y>(
        &self,
        mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    ) -> Result<(), Box<dyn std::error::Error>>
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        chart.configure_mesh().x_desc(self.x).y_desc(self.y).label_style((FONT, 13)).draw()?;
        for Line { label, colour, points } in &self.lines {
            let colour = *colour;
            let series = LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3);
            chart
                .draw_series(series)?
                .label(*label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, 13))
            .draw()?;
        Ok(())
    }
}
