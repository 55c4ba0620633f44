//! Aligned columns: rows of text in, lines out. On a terminal they fit its width: the widest columns give way, and what
//! does not fit its cell is cut, with `…` at its end. Elsewhere nothing is cut.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::tone::Tone;

/// Blanks between two columns.
const GAP: usize = 2;

/// What a column keeps, however narrow the terminal is.
const LEAST: usize = 4;

/// How wide the columns are.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    widths: Vec<usize>,
    /// Cells are cut to their widths; else a cell that is wider pushes the others on.
    cuts: bool,
}

impl Layout {
    /// Columns of these widths; on a terminal of `columns`, as many of them as it has.
    pub(super) fn new(widths: &[usize], columns: Option<usize>) -> Self {
        let mut widths = widths.to_vec();
        if let Some(columns) = columns {
            fit(&mut widths, columns);
        }
        Self {
            widths,
            cuts: columns.is_some(),
        }
    }

    /// Columns as wide as their widest cells.
    pub(super) fn of(
        heads: &[&str],
        rows: &[impl AsRef<[String]>],
        columns: Option<usize>,
    ) -> Self {
        let mut widths: Vec<_> = heads.iter().copied().map(width).collect();
        for row in rows {
            for (widest, cell) in widths.iter_mut().zip(row.as_ref()) {
                *widest = (*widest).max(width(cell));
            }
        }
        Self::new(&widths, columns)
    }

    /// One line.
    pub(super) fn line(&self, cells: &[impl AsRef<str>]) -> String {
        self.painted(cells, &[])
    }

    /// One line with its cells in tones; those that have none are plain.
    pub(super) fn painted(&self, cells: &[impl AsRef<str>], tones: &[Tone]) -> String {
        let mut line = String::new();
        let mut blanks = 0;
        let tones = tones.iter().copied().chain(std::iter::repeat(Tone::Plain));
        for ((cell, &wide), tone) in cells.iter().zip(&self.widths).zip(tones) {
            let cell = match self.cuts {
                true => cut(cell.as_ref(), wide),
                false => Cow::Borrowed(cell.as_ref()),
            };
            if !cell.is_empty() {
                line.extend(std::iter::repeat_n(' ', std::mem::take(&mut blanks)));
                line.push_str(&tone.paint(&cell));
            }
            blanks += wide.saturating_sub(width(&cell)) + GAP;
        }
        line
    }
}

/// Aligns rows under their headings, within `columns` if there is such a bound.
pub(super) fn align(
    heads: &[&str],
    rows: &[impl AsRef<[String]>],
    columns: Option<usize>,
) -> Vec<String> {
    let layout = Layout::of(heads, rows, columns);
    std::iter::once(layout.line(heads))
        .chain(rows.iter().map(|cells| layout.line(cells.as_ref())))
        .collect()
}

/// One line with each cell padded to its width; a cell that is wider pushes the others on.
pub(super) fn row(cells: &[impl AsRef<str>], widths: &[usize]) -> String {
    Layout::new(widths, None).line(cells)
}

/// Takes from the widest column, of several the last, until a line has `columns`.
fn fit(widths: &mut [usize], columns: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(columns);
    while excess > 0 {
        let Some(widest) = widths.iter_mut().max().filter(|wide| **wide > LEAST) else {
            return;
        };
        *widest -= 1;
        excess -= 1;
    }
}

/// The text in `wide` columns: all of it, or its beginning and `…`.
pub(super) fn cut(text: &str, wide: usize) -> Cow<'_, str> {
    if width(text) <= wide {
        return Cow::Borrowed(text);
    }
    let mut room = wide.saturating_sub(1);
    let fits = text.chars().take_while(|char| {
        let rest = room.checked_sub(char.width().unwrap_or(0));
        room = rest.unwrap_or(0);
        rest.is_some()
    });
    Cow::Owned(fits.chain(['…']).collect())
}

fn width(text: &str) -> usize {
    text.width()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<const M: usize>(rows: [[&str; 2]; M]) -> Vec<[String; 2]> {
        rows.map(|cells| cells.map(str::to_owned)).to_vec()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = rows([["a", "running"], ["longer", "paused"]]);
        let lines = align(&["NAME", "STATE"], &rows, None);
        assert_eq!(
            lines,
            ["NAME    STATE", "a       running", "longer  paused"]
        );
        assert_eq!(align(&["NAME", "STATE"], &rows, Some(15)), lines);
    }

    #[test]
    fn a_cell_that_is_too_wide_pushes_the_others_on() {
        assert_eq!(row(&["abc", "d", ""], &[1, 3, 2]), "abc  d");
    }

    #[test]
    fn on_a_terminal_the_widest_columns_are_cut() {
        let rows = rows([
            ["web", "failed: vCPU 0 does not answer"],
            ["database-7", "-"],
        ]);
        assert_eq!(
            align(&["NAME", "END"], &rows, Some(24)),
            [
                "NAME        END",
                "web         failed: vCP…",
                "database-7  -"
            ]
        );
        for columns in 0..60 {
            for line in align(&["NAME", "END"], &rows, Some(columns)) {
                assert!(line.width() <= columns.max(LEAST * 2 + GAP), "{line}");
            }
        }
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("abc", 0), "…");
    }

    #[test]
    fn tones_do_not_count() {
        let layout = Layout::new(&[4, 4], None);
        let line = layout.painted(&["a", "b"], &[Tone::Good]);
        assert_eq!(line, "\x1b[32ma\x1b[0m     b");
    }
}
