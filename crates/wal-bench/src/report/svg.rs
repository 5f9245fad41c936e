//! Charts as inline SVG: axes with units, one circle a point, colours from the page's style.

use std::fmt::Write;

/// Width and height of every chart, in units of its view box.
const SIZE: (f64, f64) = (760.0, 360.0);

/// Room around the plot: left, right, top, bottom.
const MARGIN: (f64, f64, f64, f64) = (70.0, 20.0, 14.0, 48.0);

/// How many colours the page's style has.
pub(crate) const COLOURS: usize = 6;

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// In proportion.
    Linear,
    /// By the exponent: for what spans several factors of ten.
    Log,
}

/// One of the two axes.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    label: String,
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis that shows all of `values`, and zero if it is linear. Figures that are none are left
    /// out, as are those that have no logarithm.
    pub(crate) fn over(label: &str, scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let shown =
            values.filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
        let (low, high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = if low > high { (1.0, 10.0) } else { (low, high) };
        let (low, high, ticks) = match scale {
            Scale::Linear => linear_ticks(high),
            Scale::Log => log_ticks(low, high),
        };
        Self { label: label.to_owned(), scale, low, high, ticks }
    }

    /// A linear axis from `low` to `high` with ticks of its own.
    pub(crate) fn with_ticks(label: &str, low: f64, high: f64, ticks: Vec<(f64, String)>) -> Self {
        Self { label: label.to_owned(), scale: Scale::Linear, low, high, ticks }
    }

    /// A linear axis from zero to `high` itself, however odd.
    pub(crate) fn up_to(label: &str, high: f64) -> Self {
        let (low, _, mut ticks) = linear_ticks(high);
        let high = if high > 0.0 { high } else { 1.0 };
        ticks.retain(|(value, _)| *value <= high);
        Self::with_ticks(label, low, high, ticks)
    }

    /// A logarithmic axis with a tick at each of `places`, which are rising and above zero, and a little
    /// room around them.
    pub(crate) fn of_places(label: &str, places: &[f64]) -> Self {
        const ROOM: f64 = 1.3;
        let ticks = places.iter().map(|place| (*place, short(*place))).collect();
        let low = places.first().map_or(1.0, |first| first / ROOM);
        let high = places.last().map_or(10.0, |last| last * ROOM);
        Self { label: label.to_owned(), scale: Scale::Log, low, high, ticks }
    }

    /// Where `value` is between the ends, from 0 to 1.
    fn place(&self, value: f64) -> Option<f64> {
        let place = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        place.is_finite().then(|| place.clamp(0.0, 1.0))
    }
}

/// Zero to a round number, in five steps or so.
fn linear_ticks(high: f64) -> (f64, f64, Vec<(f64, String)>) {
    let high = if high > 0.0 { high } else { 1.0 };
    let rough = high / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let step = factors.iter().map(|factor| factor * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(rough);
    let mut ticks = Vec::new();
    let mut value = 0.0;
    while value < high + step * 0.999 {
        ticks.push((value, short(value)));
        value += step;
    }
    let top = ticks.last().map_or(high, |(value, _)| *value);
    (0.0, top, ticks)
}

/// From the round number below to the one above: 1, 2 and 5 times the powers of ten, or only these
/// where there are many.
fn log_ticks(low: f64, high: f64) -> (f64, f64, Vec<(f64, String)>) {
    let factors: &[f64] = if high / low > 1e3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let mut power = 10_f64.powf(low.log10().floor());
    let mut ticks: Vec<f64> = Vec::new();
    let is_short = |ticks: &[f64]| ticks.last().is_none_or(|&last| last < high || last <= low);
    while is_short(&ticks) {
        for factor in factors {
            if is_short(&ticks) {
                ticks.push(factor * power);
            }
        }
        power *= 10.0;
    }
    // The last one below is the end.
    let below = ticks.iter().filter(|tick| **tick <= low * 1.0001).count().max(1) - 1;
    let ticks: Vec<_> = ticks.drain(below..).map(|tick| (tick, short(tick))).collect();
    (ticks[0].0, ticks[ticks.len() - 1].0, ticks)
}

/// A tick's text: `500`, `20K`, `3M`, `0.5`.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e4 => (value / 1e3, "K"),
        value => (value, ""),
    };
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

/// A point, and what is told of it.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// The lowest and the highest of the rounds.
    pub(crate) ends: Option<(f64, f64)>,
    pub(crate) told: String,
}

/// Points of one kind, joined by a line.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// Points over two axes.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    /// Vertical lines, and what each is.
    pub(crate) marks: Vec<(f64, String)>,
}

impl Chart {
    /// The chart with its title and, for more than one series, a legend.
    pub(crate) fn html(&self) -> String {
        let mut text = format!("<figure>\n<figcaption>{}</figcaption>\n", escaped(&self.title));
        if self.series.len() > 1 {
            text += "<ul class=\"legend\">\n";
            for (index, series) in self.series.iter().enumerate() {
                let colour = index % COLOURS;
                let name = escaped(&series.name);
                let _ = writeln!(text, "<li><span class=\"c{colour}\">&#9679;</span> {name}</li>");
            }
            text += "</ul>\n";
        }
        let (width, height) = SIZE;
        let _ = writeln!(
            text,
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
            escaped(&self.title)
        );
        self.axes(&mut text);
        for (at, told) in &self.marks {
            if let Some(x) = self.x.place(*at).map(across) {
                let (top, bottom) = (up(1.0), up(0.0));
                let _ = writeln!(
                    text,
                    "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" \
                     y2=\"{bottom:.1}\"><title>{}</title></line>",
                    escaped(told)
                );
            }
        }
        for (index, series) in self.series.iter().enumerate() {
            self.draw(&mut text, series, index % COLOURS);
        }
        text + "</svg>\n</figure>\n"
    }

    fn axes(&self, text: &mut String) {
        let (left, right) = (across(0.0), across(1.0));
        let (top, bottom) = (up(1.0), up(0.0));
        for (value, label) in &self.x.ticks {
            let Some(x) = self.x.place(*value).map(across) else { continue };
            let below = bottom + 16.0;
            let _ = writeln!(
                text,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>\
                 <text class=\"middle\" x=\"{x:.1}\" y=\"{below:.1}\">{}</text>",
                escaped(label)
            );
        }
        for (value, label) in &self.y.ticks {
            let Some(y) = self.y.place(*value).map(up) else { continue };
            let (beside, base) = (left - 8.0, y + 4.0);
            let _ = writeln!(
                text,
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"end\" x=\"{beside:.1}\" y=\"{base:.1}\">{}</text>",
                escaped(label)
            );
        }
        let (middle, below) = (f64::midpoint(left, right), SIZE.1 - 8.0);
        let _ = writeln!(
            text,
            "<text class=\"middle label\" x=\"{middle:.1}\" y=\"{below:.1}\">{}</text>",
            escaped(&self.x.label)
        );
        let beside = f64::midpoint(top, bottom);
        let _ = writeln!(
            text,
            "<text class=\"middle label\" transform=\"translate(14 {beside:.1}) rotate(-90)\">{}</text>",
            escaped(&self.y.label)
        );
    }

    fn draw(&self, text: &mut String, series: &Series, colour: usize) {
        let place = |x, y| Some((across(self.x.place(x)?), up(self.y.place(y)?)));
        let placed =
            series.points.iter().filter_map(|point| Some((place(point.x, point.y)?, point)));
        let placed: Vec<_> = placed.collect();
        let line: Vec<_> = placed.iter().map(|((x, y), _)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(text, "<polyline class=\"l{colour}\" points=\"{}\"/>", line.join(" "));
        let radius = if placed.len() > 60 { 1.6 } else { 3.2 };
        for ((x, y), point) in placed {
            if let Some((low, high)) = point.ends
                && let (Some(low), Some(high)) = (self.y.place(low), self.y.place(high))
            {
                let (low, high) = (up(low), up(high));
                let _ = writeln!(
                    text,
                    "<line class=\"l{colour}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{low:.1}\" \
                     y2=\"{high:.1}\"/>"
                );
            }
            let _ = writeln!(
                text,
                "<circle class=\"c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}\
                 </title></circle>",
                escaped(&point.told)
            );
        }
    }
}

fn across(share: f64) -> f64 {
    let (left, right, ..) = MARGIN;
    left + share * (SIZE.0 - left - right)
}

fn up(share: f64) -> f64 {
    let (_, _, top, bottom) = MARGIN;
    SIZE.1 - bottom - share * (SIZE.1 - top - bottom)
}

/// A row of the ratios: a name, the ends of its line and its dot.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
    pub(crate) told: String,
}

/// Ratios one below the other, with a line where the log is its floor.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    const ROW: f64 = 26.0;
    // Beyond this only the number matters.
    const MOST: f64 = 3.0;
    let highest = bars.iter().map(|bar| bar.high.min(MOST));
    let axis = Axis::over("", Scale::Linear, highest.chain([1.0]));
    let (left, width) = (130.0, SIZE.0);
    let across = |value: f64| axis.place(value).map(|share| left + share * (width - left - 20.0));
    let rows = bars.iter().fold(0.0, |sum, _| sum + ROW);
    let height = rows + 30.0;
    let mut text = format!("<figure>\n<figcaption>{}</figcaption>\n", escaped(title));
    let _ = writeln!(
        text,
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
        escaped(title)
    );
    for (value, label) in &axis.ticks {
        let Some(x) = across(*value) else { continue };
        let below = rows + 18.0;
        let _ = writeln!(
            text,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{rows}\"/>\
             <text class=\"middle\" x=\"{x:.1}\" y=\"{below}\">{}</text>",
            escaped(label)
        );
    }
    if let Some(x) = across(1.0) {
        let _ = writeln!(
            text,
            "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{rows}\"/>"
        );
    }
    let mut middle = ROW / 2.0;
    for bar in bars {
        let base = middle + 4.0;
        let beside = left - 12.0;
        let _ = writeln!(
            text,
            "<text class=\"end\" x=\"{beside}\" y=\"{base}\">{}</text>",
            escaped(&bar.name)
        );
        if let (Some(low), Some(at), Some(high)) =
            (across(bar.low), across(bar.median), across(bar.high))
        {
            let _ = writeln!(
                text,
                "<line class=\"l0\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
                 <circle class=\"c0\" cx=\"{at:.1}\" cy=\"{middle}\" r=\"5\"><title>{}</title></circle>",
                escaped(&bar.told)
            );
        }
        middle += ROW;
    }
    text + "</svg>\n</figure>\n"
}

/// Text as it may stand in an element or a quoted attribute.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            // XML has no way to write the others below a space.
            c if c < ' ' && !matches!(c, '\t' | '\n' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn linear_axes_begin_at_zero_and_end_above() {
        let axis = Axis::over("x", Scale::Linear, [3.0, 47.0].into_iter());
        assert_eq!(ticks(&axis), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!((axis.place(0.0), axis.place(50.0)), (Some(0.0), Some(1.0)));
        let axis = Axis::over("x", Scale::Linear, [180_000.0].into_iter());
        assert_eq!(ticks(&axis), ["0", "50K", "100K", "150K", "200K"]);
        assert_eq!(ticks(&Axis::over("x", Scale::Linear, [1.0].into_iter())).last(), Some(&"1"));
    }

    #[test]
    fn log_axes_hold_all_values_between_round_numbers() {
        let axis = Axis::over("x", Scale::Log, [95.0, 880.0].into_iter());
        assert_eq!(ticks(&axis), ["50", "100", "200", "500", "1000"]);
        let axis = Axis::over("x", Scale::Log, [95.0, 2e6].into_iter());
        assert_eq!(ticks(&axis), ["10", "100", "1000", "10K", "100K", "1M", "10M"]);
        for value in [95.0, 2e6] {
            assert!(axis.place(value).is_some_and(|place| place > 0.0 && place < 1.0));
        }
    }

    /// Nothing was measured, one value only, figures that are none: still an axis.
    #[test]
    fn axes_of_little_are_axes() {
        for scale in [Scale::Linear, Scale::Log] {
            for values in [vec![], vec![7.0], vec![0.0], vec![f64::NAN, -1.0], vec![10.0]] {
                let axis = Axis::over("x", scale, values.clone().into_iter());
                assert!(
                    axis.low < axis.high && axis.ticks.len() > 1,
                    "{scale:?} {values:?} {axis:?}"
                );
                assert_eq!(axis.place(f64::NAN), None);
            }
        }
    }

    #[test]
    fn axes_of_places_have_them_as_ticks() {
        let axis = Axis::of_places("x", &[1.0, 4.0, 64.0]);
        assert_eq!(ticks(&axis), ["1", "4", "64"]);
        let axis = Axis::up_to("x", 1.003);
        assert_eq!((ticks(&axis), axis.place(1.003)), (vec!["0", "0.5", "1"], Some(1.0)));
        assert!(Axis::up_to("x", 0.0).place(0.5).is_some());
        assert!(Axis::of_places("x", &[]).place(2.0).is_some());
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(
            escaped("<a b=\"c\" d='e'>&\u{1}"),
            "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;\u{fffd}"
        );
    }
}
