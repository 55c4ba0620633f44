//! Aligned columns: rows of text in, lines out.

/// Aligns rows under their headings; the last column is not padded.
pub(super) fn align<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let mut widths = heads.map(width);
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let heads = row(&heads, &widths);
    std::iter::once(heads)
        .chain(rows.iter().map(|cells| row(cells, &widths)))
        .collect()
}

/// One line with each cell padded to its width; a cell that is wider pushes the others on.
pub(super) fn row(cells: &[impl AsRef<str>], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, wide) in cells.iter().zip(widths) {
        let cell = cell.as_ref();
        line.push_str(cell);
        line.extend(std::iter::repeat_n(
            ' ',
            wide.saturating_sub(width(cell)) + 2,
        ));
    }
    line.truncate(line.trim_end().len());
    line
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "running"], ["longer", "paused"]].map(|cells| cells.map(str::to_owned));
        let lines = align(["NAME", "STATE"], &rows);
        assert_eq!(
            lines,
            ["NAME    STATE", "a       running", "longer  paused"]
        );
    }

    #[test]
    fn a_cell_that_is_too_wide_pushes_the_others_on() {
        assert_eq!(row(&["abc", "d", ""], &[1, 3, 2]), "abc  d");
    }
}
