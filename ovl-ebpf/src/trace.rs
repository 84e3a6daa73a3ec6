//! Which verdicts `ovl-agent trace` is shown.

use ovl_common::{Action, Program, Trace};

use crate::verdict::Verdict;

/// A verdict in one number, for a function that has no room for more: its action, its program and its reason, a byte
/// each from the lowest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary(u32);

impl Summary {
    /// Of what `program` decided.
    #[inline(always)]
    pub fn new(program: Program, verdict: Verdict<'_>) -> Self {
        let action = match verdict {
            Verdict::Pass(_) => Action::Pass,
            Verdict::Drop(_) => Action::Drop,
            Verdict::Send { .. } => Action::Send,
            Verdict::Wrap { .. } => Action::Wrap,
            Verdict::Deliver { .. } => Action::Deliver,
            Verdict::Strip => Action::Strip,
            Verdict::Return { .. } => Action::Return,
        };
        Self(action as u32 | (program as u32) << 8 | (verdict.reason() as u32) << 16)
    }

    /// An [`Action`].
    #[inline(always)]
    pub fn action(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// A [`Program`].
    #[inline(always)]
    pub fn program(self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    /// A [`ovl_common::Reason`].
    #[inline(always)]
    pub fn reason(self) -> u8 {
        self.0.to_le_bytes()[2]
    }

    /// Whether somebody wants to see it. `random` is any number.
    #[inline(always)]
    pub fn is_wanted(self, trace: &Trace, now: u64, random: u32) -> bool {
        now < trace.until
            && trace.programs >> (self.program() & 31) & 1 != 0
            && trace.reasons >> (self.reason() & 63) & 1 != 0
            && (trace.one_in == 0 || random.is_multiple_of(trace.one_in))
    }
}

#[cfg(test)]
mod tests {
    use ovl_common::Reason;

    use super::*;

    const EVERYTHING: Trace = Trace { until: 1000, one_in: 0, programs: u32::MAX, reasons: u64::MAX };

    #[test]
    fn a_verdict_keeps_its_parts() {
        for program in Program::ALL {
            for reason in Reason::ALL {
                let summary = Summary::new(program, Verdict::Drop(reason));
                let parts = (summary.action(), summary.program(), summary.reason());
                assert_eq!(parts, (Action::Drop as u8, program as u8, reason as u8));
            }
        }
        let sent = Summary::new(Program::FromPod, Verdict::Send { ifindex: 7, next_hop: None });
        assert_eq!((sent.action(), sent.reason()), (Action::Send as u8, Reason::Forwarded as u8));
    }

    #[test]
    fn only_what_was_asked_for_is_shown() {
        let summary = Summary::new(Program::FromWire, Verdict::Pass(Reason::Full));
        let other_reason = u64::MAX ^ 1 << Reason::Full as u32;
        let table = [
            ("everything", EVERYTHING, true),
            ("a zeroed row", Trace::default(), false),
            ("the past", Trace { until: 999, ..EVERYTHING }, false),
            ("this program", Trace { programs: 1 << Program::FromWire as u32, ..EVERYTHING }, true),
            ("others", Trace { programs: u32::MAX ^ 1 << Program::FromWire as u32, ..EVERYTHING }, false),
            ("this reason", Trace { reasons: 1 << Reason::Full as u32, ..EVERYTHING }, true),
            ("other reasons", Trace { reasons: other_reason, ..EVERYTHING }, false),
            ("each", Trace { one_in: 1, ..EVERYTHING }, true),
            ("a lucky one", Trace { one_in: 5, ..EVERYTHING }, true),
            ("an unlucky one", Trace { one_in: 4, ..EVERYTHING }, false),
        ];
        for (name, trace, shown) in table {
            assert_eq!(summary.is_wanted(&trace, 999, 25), shown, "{name}");
        }
    }
}
