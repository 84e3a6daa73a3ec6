//! In which order contenders take turns.

/// The numbers below `count` in the order of `round`, which begins one further than that of the round before: nobody
/// is always first, or always after the same.
pub(super) fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (turn + round) % count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_first_once() {
        let orders: Vec<Vec<_>> = (0..3).map(|round| order(3, round).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
        assert_eq!(order(0, 5).count(), 0);
    }
}
