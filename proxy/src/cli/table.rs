//! Tables for people, laid out as `istioctl` lays out its own: columns as wide as their widest cell and a blank.

use crate::cli::terminal::{Colours, Tone};

/// Rows under a heading.
pub(crate) struct Table {
    heads: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

/// A text and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell(String, Tone);

impl Cell {
    pub(crate) fn toned(tone: Tone, text: impl Into<String>) -> Cell {
        Cell(text.into(), tone)
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell(text.into(), Tone::Plain)
    }
}

impl Table {
    pub(crate) fn new(heads: &'static [&'static str]) -> Table {
        Table {
            heads,
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Leaves out the rows that don't have this in any cell.
    pub(crate) fn keep(&mut self, text: &str) {
        let has = |row: &Vec<Cell>| row.iter().any(|cell| cell.0.contains(text));
        self.rows.retain(has);
    }

    /// The text, a line for each row; what stands last in a line isn't filled up.
    pub(crate) fn print(&self, colours: Colours) -> String {
        let heads: Vec<Cell> = self.heads.iter().map(|head| Cell::from(*head)).collect();
        let all = || std::iter::once(&heads).chain(&self.rows);
        let mut widths = vec![0; self.heads.len()];
        for row in all() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.0.chars().count());
            }
        }
        let mut out = String::new();
        for row in all() {
            for (place, (Cell(text, tone), width)) in row.iter().zip(&widths).enumerate() {
                out.push_str(&colours.paint(*tone, text));
                if place + 1 < row.len() {
                    out.extend(std::iter::repeat_n(' ', width + 1 - text.chars().count()));
                }
            }
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["A", "LONG HEAD", "C"]);
        table.row(["wide cell".into(), "ü".into(), "end".into()]);
        assert_eq!(
            table.print(Colours::NONE),
            "A         LONG HEAD C\nwide cell ü         end\n"
        );
    }
}
