//! The syntax of Go's `flag` package, which unit files for flanneld are written in, turned into clap's.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::RangeInclusive;

use clap::{Arg, ArgAction, Command};

/// A command line in clap's forms.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The words, program name first.
    pub(super) argv: Vec<OsString>,
    /// Where in it the flags of `run` start.
    pub(super) flags_at: usize,
    /// The flags that were given, without dashes.
    pub(super) given: BTreeSet<String>,
    /// What is wrong with a word where a flag was expected.
    pub(super) stray: Option<String>,
    other_command: bool,
}

impl Line {
    /// Whether it is the command line of `run`, with or without that word.
    pub(super) fn is_run(&self) -> bool {
        !self.other_command
    }
}

/// Turns the flags of `run` into clap's forms: `-x` into `--x`, `--x v` into `--x=v`. Other subcommands have no past
/// and stay as they are.
pub(super) fn rewrite(command: &Command, argv: impl IntoIterator<Item = OsString>) -> Line {
    let mut words = argv.into_iter();
    let mut line = Line { argv: words.next().into_iter().collect(), ..Line::default() };
    line.flags_at = line.argv.len();
    let mut last_boolean = None;
    while let Some(word) = words.next() {
        let Some((name, value)) = word.to_str().and_then(flag) else {
            let is_first = line.argv.len() == line.flags_at;
            if is_first && word == "run" {
                line.argv.push(word);
                line.flags_at = line.argv.len();
                continue;
            }
            // Go ignores this word and all after it without a word; we don't.
            if word == "--" {
                // The end of the flags, to clap as well.
            } else if is_first {
                line.other_command = true;
            } else {
                line.stray = Some(stray(&word, last_boolean.as_deref()));
            }
            line.argv.push(word);
            line.argv.extend(words);
            break;
        };
        last_boolean = None;
        if name == "h" || name == "help" {
            line.argv.push(if name == "h" { "-h" } else { "--help" }.into());
            continue;
        }
        let mut clap_form = OsString::from(format!("--{name}"));
        let known = command.get_arguments().find(|arg| arg.get_long() == Some(name));
        if let Some(value) = value {
            clap_form.push("=");
            clap_form.push(value);
        } else if known.is_some_and(is_boolean) {
            last_boolean = Some(name.to_owned());
        } else if known.is_some()
            && let Some(value) = words.next()
        {
            clap_form.push("=");
            clap_form.push(value);
        }
        line.given.insert(name.to_owned());
        line.argv.push(clap_form);
    }
    line
}

/// The name and, after `=`, the value of a word that is a flag to Go: one or two dashes, then neither `-` nor `=`.
fn flag(word: &str) -> Option<(&str, Option<&str>)> {
    let name = word.strip_prefix('-')?;
    let name = name.strip_prefix('-').unwrap_or(name);
    if name.is_empty() || name.starts_with(['-', '=']) {
        return None;
    }
    Some(name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value))))
}

fn stray(word: &std::ffi::OsStr, last_boolean: Option<&str>) -> String {
    let word = word.display();
    match last_boolean {
        Some(name) if boolean(&word.to_string()).is_ok() => {
            format!("unexpected argument '{word}': a boolean takes its value with '=', as in --{name}={word}")
        }
        _ => format!("unexpected argument '{word}': flags start with '-', and commands come before flags"),
    }
}

fn is_boolean(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|number| number.min_values() == 0)
}

/// Gives a flag the forms it has in Go: booleans take `=true` and `=false`, and an empty default is none.
pub(super) fn adapt(arg: Arg) -> Arg {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        let default = if arg.get_default_values().is_empty() { "false" } else { "true" };
        return arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value(default)
            .default_missing_value("true")
            .hide_default_value(default == "false")
            .hide_possible_values(true)
            .value_name("BOOL")
            .value_parser(boolean);
    }
    let has_default = arg.get_default_values().iter().any(|value| !value.is_empty());
    arg.hide_default_value(!has_default)
}

/// The words of Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// An integer as Go's `strconv.ParseInt` reads it with base 0: `0x`, `0o`, `0b` and a leading `0` choose the base,
/// and single underscores may stand between digits.
pub(super) fn integer<T: TryFrom<i64>>(text: &str, range: RangeInclusive<i64>) -> Result<T, String> {
    let expected = || format!("expected a whole number from {} to {}", range.start(), range.end());
    let value = parse_integer(text).filter(|value| range.contains(value)).ok_or_else(expected)?;
    T::try_from(value).map_err(|_out_of_range| expected())
}

fn parse_integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixed = |prefix| lower.strip_prefix(prefix).filter(|digits: &&str| !digits.is_empty());
    // A base's letter counts as a digit before an underscore; so does the leading zero of octal numbers.
    let (base, digits) = if let Some(digits) = prefixed("0x") {
        (16, digits.strip_prefix('_').unwrap_or(digits))
    } else if let Some(digits) = prefixed("0o") {
        (8, digits.strip_prefix('_').unwrap_or(digits))
    } else if let Some(digits) = prefixed("0b") {
        (2, digits.strip_prefix('_').unwrap_or(digits))
    } else if lower.starts_with('0') {
        (8, lower.as_str())
    } else {
        (10, lower.as_str())
    };
    let well_placed =
        !digits.starts_with(['_', '+', '-']) && !digits.ends_with('_') && !digits.contains("__");
    let number = format!("{sign}{}", digits.replace('_', ""));
    if well_placed { i64::from_str_radix(&number, base).ok() } else { None }
}
