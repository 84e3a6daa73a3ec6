//! Times and texts as a person reads them.

/// A duration in its two largest units: `12s`, `3m`, `2h 5m`, `4d 3h`.
pub(crate) fn duration(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let two = |large: u64, unit: char, small: u64, small_unit: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit} {small}{small_unit}"),
    };
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{}m", seconds / MINUTE),
        HOUR..DAY => two(seconds / HOUR, 'h', seconds % HOUR / MINUTE, 'm'),
        DAY.. => two(seconds / DAY, 'd', seconds % DAY / HOUR, 'h'),
    }
}

/// How long ago; a dash for never.
pub(crate) fn ago(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{} ago", duration(seconds)))
}

/// How long something took.
pub(crate) fn took(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

/// An amount of data in three digits: `999 B`, `1.23 kB`, `45.6 MB`.
pub(crate) fn bytes(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
    let mut amount = count as f64;
    if count < 1000 {
        return format!("{count} B");
    }
    let mut units = ["kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    let mut unit = "";
    // What would be rounded up to four digits belongs to the next unit.
    while amount >= 999.5
        && let Some(next) = units.next()
    {
        amount /= 1000.0;
        unit = next;
    }
    let places = if amount < 9.995 { 2 } else { usize::from(amount < 99.95) };
    format!("{amount:.places$} {unit}")
}

/// `once`, `2 times`.
pub(crate) fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// What other nodes wrote into the store, without what a terminal would act on.
pub(crate) fn clean(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// The items that are there, separated by commas; a dash where there is none.
pub(crate) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_two_units_at_most() {
        let table = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m"),
            (3600, "1h"),
            (7530, "2h 5m"),
            (86_399, "23h 59m"),
            (86_400, "1d"),
            (356_400, "4d 3h"),
        ];
        for (seconds, text) in table {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!((ago(None), ago(Some(61))), ("-".to_owned(), "1m ago".to_owned()));
        assert_eq!((took(0.00123), took(12.34)), ("1.2 ms".to_owned(), "12.3 s".to_owned()));
    }

    #[test]
    fn amounts_have_three_digits() {
        let table = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9996, "10.0 kB"),
            (45_600_000, "45.6 MB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (1_234_567_890, "1.23 GB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (count, text) in table {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_terminal_is_told_nothing_by_other_nodes() {
        assert_eq!(clean("vx\u{1b}[2Jlan\n\u{9b}x"), "vx\u{fffd}[2Jlan\u{fffd}\u{fffd}x");
    }
}
