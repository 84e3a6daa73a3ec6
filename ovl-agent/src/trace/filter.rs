//! The words that say which verdicts to show.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use ipnet::IpNet;
use ovl_common::{Action, Event, Program, Reason};

use super::packet::Packet;

/// Which verdicts to show. Empty lists are everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// As in [`ovl_common::Trace`].
    pub(super) programs: u32,
    /// As in [`ovl_common::Trace`].
    pub(super) reasons: u64,
    actions: Vec<Action>,
    addresses: Vec<IpNet>,
}

impl Filter {
    /// Reads the words: programs, reasons, actions, addresses and subnets in any order.
    ///
    /// # Errors
    /// Names the word, and what there is.
    pub(super) fn parse(words: &[String]) -> Result<Self> {
        let (mut programs, mut reasons) = (0, 0);
        let (mut actions, mut addresses) = (Vec::new(), Vec::new());
        for word in words {
            let name = word.to_ascii_lowercase().replace('-', "_");
            if let Some(program) = Program::ALL.into_iter().find(|program| program.name() == name) {
                programs |= 1 << program as u32;
            } else if let Some(reason) = Reason::ALL.into_iter().find(|reason| reason.name() == name) {
                reasons |= bit(reason);
            } else if let Some(action) = Action::ALL.into_iter().find(|action| action.name() == name) {
                actions.push(action);
            } else if let Some(address) = subnet(word) {
                addresses.push(address);
            } else {
                bail!(unknown(word, &name));
            }
        }
        if programs == 0 {
            programs = Program::ALL.into_iter().fold(0, |bits, program| bits | 1 << program as u32);
        }
        if reasons == 0 {
            reasons = Reason::ALL.into_iter().fold(0, |bits, reason| bits | bit(reason));
        }
        if !actions.is_empty() {
            reasons &= actions.iter().fold(0, |bits, action| bits | reasons_of(*action));
            ensure!(
                reasons != 0,
                "no verdict is for these reasons and has these outcomes; `forwarded` is the one reason to send, \
                 `delivered` the one to deliver, `stripped` the one to strip, all others are to pass, drop, return or wrap"
            );
        }
        Ok(Self { programs, reasons, actions, addresses })
    }

    /// Whether the programs can tell alone what fits.
    pub(super) fn is_the_programs(&self) -> bool {
        let by_reason = |action: &Action| matches!(action, Action::Send | Action::Deliver | Action::Strip);
        self.addresses.is_empty() && self.actions.iter().all(by_reason)
    }

    /// Whether to show a verdict; the programs have looked at all but the last two.
    pub(super) fn fits(&self, event: &Event, packet: &Packet) -> bool {
        let is_action = |action: &Action| *action as u8 == event.action;
        let has = |subnet: &IpNet| packet.addresses().any(|address| subnet.contains(&address));
        self.programs.wrapping_shr(event.program.into()) & 1 != 0
            && self.reasons.wrapping_shr(event.reason.into()) & 1 != 0
            && (self.actions.is_empty() || self.actions.iter().any(is_action))
            && (self.addresses.is_empty() || self.addresses.iter().any(has))
    }
}

fn bit(reason: Reason) -> u64 {
    1 << reason as u32
}

fn reasons_of(action: Action) -> u64 {
    match action {
        Action::Send => bit(Reason::Forwarded),
        Action::Deliver => bit(Reason::Delivered),
        Action::Strip => bit(Reason::Stripped),
        Action::Pass | Action::Drop | Action::Return | Action::Wrap => {
            !(bit(Reason::Forwarded) | bit(Reason::Delivered) | bit(Reason::Stripped))
        }
    }
}

fn subnet(word: &str) -> Option<IpNet> {
    word.parse().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))
}

fn unknown(word: &str, name: &str) -> String {
    let names = || {
        let programs = Program::ALL.into_iter().map(Program::name);
        let reasons = Reason::ALL.into_iter().map(Reason::name);
        programs.chain(Action::ALL.into_iter().map(Action::name)).chain(reasons)
    };
    let nearest = names().map(|known| (distance(name, known), known)).min();
    let guess = match nearest {
        Some((distance, known)) if distance <= 2 => format!("; did you mean {known}?"),
        _ => String::new(),
    };
    let list = |names: &[&str]| names.join(", ");
    format!(
        "'{word}' is no program, reason, outcome, address or subnet{guess}\n  programs: {}\n  outcomes: {}\n  reasons: {}",
        list(&Program::ALL.map(Program::name)),
        list(&Action::ALL.map(Action::name)),
        list(&Reason::ALL.map(Reason::name)),
    )
}

/// How many letters are to be added, left out or replaced to make one word of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, a) in one.bytes().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(other.bytes()) {
            let best = (diagonal + usize::from(a != b)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::{event, packet};
    use super::*;

    fn parse(words: &[&str]) -> Result<Filter> {
        Filter::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn words_of_one_kind_widen_and_kinds_narrow() {
        // from_pod sent it on, 10.42.3.2 to 10.42.7.2 by node 192.0.2.12.
        let table: [(&[&str], bool); 16] = [
            (&[], true),
            (&["from_pod"], true),
            (&["from-pod"], true),
            (&["to_pod"], false),
            (&["to_pod", "from_pod"], true),
            (&["forwarded"], true),
            (&["no_flow"], false),
            (&["no_flow", "forwarded"], true),
            (&["send"], true),
            (&["drop", "pass"], false),
            (&["10.42.3.2"], true),
            (&["10.42.7.2"], true),
            (&["192.0.2.12"], true),
            (&["10.42.3.3"], false),
            (&["10.42.7.0/24", "fd42::1"], true),
            (&["from_pod", "forwarded", "10.42.9.0/24"], false),
        ];
        for (words, fits) in table {
            let filter = parse(words).expect("words that there are");
            assert_eq!(filter.fits(&event(), &packet()), fits, "{words:?}");
        }
    }

    #[test]
    fn the_programs_get_what_they_can_tell() {
        let filter = parse(&["from_wire", "deliver"]).expect("words that there are");
        assert_eq!((filter.programs, filter.reasons), (1 << 1, bit(Reason::Delivered)));
        assert!(filter.is_the_programs());
        let filter = parse(&["drop", "10.42.0.0/16"]).expect("words that there are");
        assert_eq!(filter.reasons & (bit(Reason::Forwarded) | bit(Reason::Delivered)), 0);
        assert!(!filter.is_the_programs());
    }

    #[test]
    fn a_word_that_is_none_is_named_with_what_there_is() {
        let text = parse(&["from_pod", "no_flo"]).expect_err("a slip").to_string();
        assert!(text.contains("'no_flo'") && text.contains("did you mean no_flow?"), "{text}");
        assert!(text.contains("to_overlay") && text.contains("strict_conntrack"), "{text}");
        let text = parse(&["everything"]).expect_err("no word").to_string();
        assert!(!text.contains("did you mean"), "{text}");
        let text = parse(&["send", "no_flow"]).expect_err("never both").to_string();
        assert!(text.contains("forwarded"), "{text}");
    }

    #[test]
    fn distances_are_counted_in_letters() {
        for (one, other, expected) in [("", "", 0), ("ttl", "tt", 1), ("", "ttl", 3), ("vlna", "vlan", 2)] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }
}
