//! Text in columns.

use super::human::clean;

/// To which side the cells of a column go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A heading line and the rows under it: columns as wide as their widest cell, two spaces apart, the last one ragged.
pub(crate) fn table<const N: usize>(heads: [(&str, Side); N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| clean(cell))).collect();
    let heading = heads.map(|(head, _)| head.to_owned());
    let mut widths = [0; N];
    for row in rows.iter().chain([&heading]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in [&heading].into_iter().chain(&rows) {
        let cells = row.iter().zip(&heads).zip(&widths).map(|((cell, (_, side)), width)| match side {
            Side::Left => format!("{cell:<width$}"),
            Side::Right => format!("{cell:>width$}"),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "1", "x"], ["größer", "1000", "two words"]].map(|row| row.map(str::to_owned));
        let expected = "\
NAME    ROWS  WHY
a          1  x
größer  1000  two words
";
        let heads = [("NAME", Side::Left), ("ROWS", Side::Right), ("WHY", Side::Left)];
        assert_eq!(table(heads, &rows), expected);
    }
}
