//! Metrics as text: Prometheus' own format, and OpenMetrics, which has exemplars.
//!
//! OpenMetrics names a family of counters without the `_total` that its series have. A counter whose name doesn't end so,
//! as many of Envoy's, is there of unknown type, under its own name.

use std::fmt::Write as _;
use std::io;
use std::time::UNIX_EPOCH;

use crate::metrics::exposition::{Distribution, Exposition, Kind, Labels, Sample};

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes metrics into `out`.
pub struct TextWriter<W> {
    out: W,
    format: Format,
    name: String,
    /// Of the series, as they stand between braces.
    labels: String,
    lines: String,
}

impl<W: io::Write> TextWriter<W> {
    pub fn new(out: W, format: Format) -> TextWriter<W> {
        TextWriter {
            out,
            format,
            name: String::new(),
            labels: String::new(),
            lines: String::new(),
        }
    }

    /// Nothing follows.
    ///
    /// # Errors
    /// The last of it can't be written.
    pub fn finish(mut self) -> io::Result<W> {
        if self.format == Format::OpenMetrics {
            self.out.write_all(b"# EOF\n")?;
        }
        Ok(self.out)
    }

    fn histogram(&mut self, distribution: &Distribution) {
        let mut exemplars = distribution.exemplars.iter().peekable();
        let finite = distribution.buckets.iter().map(|(bound, n)| (*bound, *n));
        let all = finite.chain([(f64::INFINITY, distribution.count)]);
        for (place, (bound, count)) in all.enumerate() {
            let comma = if self.labels.is_empty() { "" } else { "," };
            let (name, labels) = (&self.name, &self.labels);
            let bound = Number(bound, self.format == Format::OpenMetrics);
            let _ = write!(
                self.lines,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
            );
            if let Some((_, exemplar)) = exemplars.next_if(|(bucket, _)| *bucket == place)
                && self.format == Format::OpenMetrics
            {
                let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
                let (trace, value) = (exemplar.trace_id, exemplar.value);
                let _ = write!(
                    self.lines,
                    " # {{trace_id=\"{trace:032x}\"}} {value} {}.{:03}",
                    at.as_secs(),
                    at.subsec_millis()
                );
            }
            self.lines.push('\n');
        }
        let sum = Number(distribution.sum, false);
        self.line("_sum", format_args!("{sum}"));
        self.line("_count", format_args!("{}", distribution.count));
    }

    fn line(&mut self, suffix: &str, value: std::fmt::Arguments<'_>) {
        let (name, labels) = (&self.name, &self.labels);
        // Writing to memory doesn't fail, as above.
        let _ = match labels.is_empty() {
            true => writeln!(self.lines, "{name}{suffix} {value}"),
            false => writeln!(self.lines, "{name}{suffix}{{{labels}}} {value}"),
        };
    }
}

impl<W: io::Write> Exposition for TextWriter<W> {
    fn family(&mut self, name: &str, help: &str, kind: Kind) -> io::Result<()> {
        name.clone_into(&mut self.name);
        let open = self.format == Format::OpenMetrics;
        let (name, kind) = match (kind, name.strip_suffix("_total")) {
            (Kind::Counter, Some(stem)) if open => (stem, "counter"),
            (Kind::Counter, None) if open => (name, "unknown"),
            (Kind::Counter, _) => (name, "counter"),
            (Kind::Gauge, _) => (name, "gauge"),
            (Kind::Histogram, _) => (name, "histogram"),
        };
        let help = Escaped(help, open);
        // OpenMetrics has the type first, and so does everybody who wrote both.
        match open {
            true => write!(self.out, "# TYPE {name} {kind}\n# HELP {name} {help}\n"),
            false => write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n"),
        }
    }

    fn series(&mut self, labels: &Labels<'_>, sample: &Sample) -> io::Result<()> {
        self.labels.clear();
        self.lines.clear();
        for (at, (name, value)) in labels.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _ = write!(self.labels, "{comma}{name}=\"{}\"", Escaped(value, true));
        }
        match sample {
            Sample::Whole(value) => self.line("", format_args!("{value}")),
            Sample::Real(value) => self.line("", format_args!("{}", Number(*value, false))),
            Sample::Histogram(distribution) => self.histogram(distribution),
        }
        self.out.write_all(self.lines.as_bytes())
    }
}

/// Text in which lines don't break and, where asked, quotes don't end.
struct Escaped<'a>(&'a str, bool);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['\\', '\n', '"']) {
            let (plain, special) = rest.split_at(at);
            f.write_str(plain)?;
            let mut special = special.chars();
            match special.next() {
                Some('\n') => f.write_str("\\n")?,
                Some('"') if !self.1 => f.write_char('"')?,
                Some(other) => {
                    f.write_char('\\')?;
                    f.write_char(other)?;
                }
                None => {}
            }
            rest = special.as_str();
        }
        f.write_str(rest)
    }
}

/// A float; OpenMetrics' bounds have a point.
struct Number(f64, bool);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0, self.1) {
            (value, _) if value.is_nan() => f.write_str("NaN"),
            (value, _) if value == f64::INFINITY => f.write_str("+Inf"),
            (value, _) if value == f64::NEG_INFINITY => f.write_str("-Inf"),
            (value, true) if value.fract() == 0.0 => write!(f, "{value:.1}"),
            (value, _) => write!(f, "{value}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::exposition::Exemplar;

    fn text(format: Format) -> String {
        let mut writer = TextWriter::new(Vec::new(), format);
        writer
            .family("a_total", "Of \"a\"\\b.\nc", Kind::Counter)
            .unwrap();
        let labels = [("x", "1"), ("y", "q\"\\\n")];
        writer.series(&labels, &Sample::Whole(u64::MAX)).unwrap();
        writer.family("b", "B.", Kind::Counter).unwrap();
        writer.series(&[], &Sample::Real(-0.5)).unwrap();
        writer.family("c", "C.", Kind::Histogram).unwrap();
        let exemplar = Exemplar {
            trace_id: 0xabc,
            value: 7.5,
            at: UNIX_EPOCH + Duration::from_millis(1_500),
        };
        let told = Distribution {
            buckets: vec![(0.5, 0), (5.0, 2)],
            count: 3,
            sum: 9.0,
            exemplars: vec![(2, exemplar)],
        };
        writer
            .series(&[("x", "1")], &Sample::Histogram(told))
            .unwrap();
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    #[test]
    fn prometheus_own_text() {
        assert_eq!(
            text(Format::Prometheus),
            "# HELP a_total Of \"a\"\\\\b.\\nc\n# TYPE a_total counter\n\
             a_total{x=\"1\",y=\"q\\\"\\\\\\n\"} 18446744073709551615\n\
             # HELP b B.\n# TYPE b counter\nb -0.5\n\
             # HELP c C.\n# TYPE c histogram\n\
             c_bucket{x=\"1\",le=\"0.5\"} 0\nc_bucket{x=\"1\",le=\"5\"} 2\nc_bucket{x=\"1\",le=\"+Inf\"} 3\n\
             c_sum{x=\"1\"} 9\nc_count{x=\"1\"} 3\n"
        );
    }

    #[test]
    fn openmetrics_with_exemplars() {
        assert_eq!(
            text(Format::OpenMetrics),
            "# TYPE a counter\n# HELP a Of \\\"a\\\"\\\\b.\\nc\n\
             a_total{x=\"1\",y=\"q\\\"\\\\\\n\"} 18446744073709551615\n\
             # TYPE b unknown\n# HELP b B.\nb -0.5\n\
             # TYPE c histogram\n# HELP c C.\n\
             c_bucket{x=\"1\",le=\"0.5\"} 0\nc_bucket{x=\"1\",le=\"5.0\"} 2\n\
             c_bucket{x=\"1\",le=\"+Inf\"} 3 # {trace_id=\"00000000000000000000000000000abc\"} 7.5 1.500\n\
             c_sum{x=\"1\"} 9\nc_count{x=\"1\"} 3\n# EOF\n"
        );
    }
}
