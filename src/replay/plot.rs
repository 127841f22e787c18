//! Miss ratios over sizes, as SVG: no library is needed for a few lines.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Colours that are told apart by most eyes (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#999999"];

/// A figure: for each cache its points, percent of the footprint and miss ratio. Sizes are on a logarithmic axis.
pub fn svg(title: &str, curves: &[(String, Vec<(f64, f64)>)]) -> String {
    let points = || curves.iter().flat_map(|(_, points)| points.iter().copied());
    let (least, most) =
        points().fold((f64::MAX, f64::MIN), |(least, most), (x, _)| (least.min(x), most.max(x)));
    let top = (points().map(|(_, y)| y).fold(0.0, f64::max) * 10.0).ceil().max(1.0) / 10.0;
    let x_of = |x: f64| LEFT + (x / least).ln() / (most / least).ln().max(1e-9) * (WIDTH - LEFT - RIGHT);
    let y_of = |y: f64| HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}: misses over memory</text>\n",
        escaped(title)
    );
    for i in 0..=5 {
        let (ratio, y) = (top * f64::from(i) / 5.0, y_of(top * f64::from(i) / 5.0));
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            ratio * 100.0
        );
    }
    for (x, _) in curves.first().map_or(&[][..], |(_, points)| points.as_slice()) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{x} %</text>",
            x_of(*x),
            HEIGHT - BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">memory, part of the footprint</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 12.0
    );
    for (i, (name, points)) in curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|&(x, y)| format!("{:.1},{:.1}", x_of(x), y_of(y))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{}\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{colour}\">{}</text>",
            path.join(" "),
            if i == 0 { 3 } else { 1 },
            WIDTH - RIGHT + 10.0,
            TOP + 18.0 * (i + 1) as f64,
            escaped(name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cache_has_a_line_with_all_its_points_inside_the_figure() {
        let curves = [
            ("a<b".to_owned(), vec![(1.0, 0.9), (10.0, 0.5), (50.0, 0.0)]),
            ("lru".to_owned(), vec![(1.0, 1.0)]),
        ];
        let svg = svg("x & y", &curves);
        assert!(svg.contains("x &amp; y: misses") && svg.contains("a&lt;b") && svg.ends_with("</svg>\n"));
        let lines: Vec<&str> = svg.lines().filter(|line| line.starts_with("<polyline")).collect();
        assert_eq!(lines.len(), 2);
        let points: Vec<(f64, f64)> = lines[0]
            .split('"')
            .nth(1)
            .unwrap()
            .split(' ')
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert_eq!(points.len(), 3);
        assert!(
            points
                .iter()
                .all(|(x, y)| (LEFT..=WIDTH - RIGHT).contains(x) && (TOP..=HEIGHT - BOTTOM).contains(y))
        );
        assert!(
            points[0].1 < points[1].1 && points[1].0 < points[2].0,
            "fewer misses are lower, more memory is further right"
        );
    }
}
