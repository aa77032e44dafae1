//! `waypoint test`: requests with what is expected of them, asked of a folder. A mesh's policy is tested without a cluster.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use waypoint_config::standalone::input::yaml;

use crate::cli::explain::Folder;
use crate::cli::failure::Failure;
use crate::explain::case::Case;

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Manifests: files and folders, YAML or JSON.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    manifests: Vec<PathBuf>,
    /// The Gateway that is asked [default: the one that the destination uses].
    #[arg(long, value_name = "NS/NAME")]
    gateway: Option<String>,
    /// Where the results are written as JUnit's XML, too.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Files with cases.
    #[arg(value_name = "CASES", required = true)]
    cases: Vec<PathBuf>,
}

/// What became of a case.
struct Tested {
    file: String,
    name: String,
    /// Empty: as expected.
    differences: Vec<String>,
}

/// Runs all cases; the exit code is 0 where all are as expected.
pub(crate) fn run(args: TestArgs) -> Result<ExitCode, Failure> {
    let mut cases = Vec::new();
    for file in &args.cases {
        cases.extend(read(file)?.into_iter().map(|case| (file, case)));
    }
    if cases.is_empty() {
        return Err("the files hold no case".into());
    }
    let mut folder = Folder::new(args.manifests, args.gateway);
    let mut tested = Vec::new();
    for (file, case) in cases {
        let differences = match folder.ask(&case.words) {
            Ok(report) => case.differences(&report),
            Err(error) => vec![error.to_string()],
        };
        tested.push(Tested {
            file: file.display().to_string(),
            name: case.name,
            differences,
        });
    }
    if let Some(junit) = &args.junit {
        std::fs::write(junit, junit_xml(&tested))
            .map_err(|error| format!("{}: {error}", junit.display()))?;
    }
    let mut out = std::io::stdout().lock();
    for case in &tested {
        let ok = if case.differences.is_empty() {
            "ok    "
        } else {
            "FAILED"
        };
        writeln!(out, "{ok} {}", case.name)?;
        for difference in &case.differences {
            writeln!(out, "         {difference}")?;
        }
    }
    let failed = failed(&tested);
    writeln!(out, "{} cases, {failed} failed", tested.len())?;
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn failed(tested: &[Tested]) -> usize {
    let failed = tested.iter().filter(|case| !case.differences.is_empty());
    failed.count()
}

fn read(file: &Path) -> Result<Vec<Case>, Failure> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut cases = Vec::new();
    let value = yaml::embedded(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    cases.extend(Case::all(&value).map_err(|error| format!("{}: {error}", file.display()))?);
    Ok(cases)
}

fn junit_xml(tested: &[Tested]) -> String {
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"waypoint\" tests=\"{}\" failures=\"{}\">\n",
        tested.len(),
        failed(tested)
    );
    for case in tested {
        let (file, name) = (xml_text(&case.file), xml_text(&case.name));
        // Writing to memory doesn't fail.
        let _ = write!(xml, "  <testcase classname=\"{file}\" name=\"{name}\"");
        let _ = match case.differences.is_empty() {
            true => writeln!(xml, "/>"),
            false => writeln!(
                xml,
                "><failure>{}</failure></testcase>",
                xml_text(&case.differences.join("\n"))
            ),
        };
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// Text that may stand in XML, also in quotes. Control characters can't stand there at all.
fn xml_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_as_junit_reads_them() {
        let tested = |name: &str, differences: &[&str]| Tested {
            file: "cases.yaml".into(),
            name: name.into(),
            differences: differences.iter().map(|d| (*d).to_owned()).collect(),
        };
        let xml = junit_xml(&[tested("a \"quoted\" <name>", &[]), tested("b", &["x & y"])]);
        assert!(xml.contains("tests=\"2\" failures=\"1\""));
        assert!(xml.contains("name=\"a &quot;quoted&quot; &lt;name&gt;\"/>"));
        assert!(xml.contains("<failure>x &amp; y</failure>"));
    }
}
