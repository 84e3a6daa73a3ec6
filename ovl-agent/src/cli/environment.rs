//! Flags as environment variables, by flanneld's scheme.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::Command;
use clap::error::ErrorKind;

/// A flag that a variable sets.
#[derive(Debug)]
pub(super) struct Setting {
    /// The flag's name.
    pub(super) flag: String,
    /// The variable's.
    pub(super) variable: String,
    value: OsString,
}

impl Setting {
    /// The flag as a word of the command line. A variable is one value, also of a flag that can be repeated.
    pub(super) fn token(&self) -> OsString {
        let mut token = OsString::from(format!("--{}=", self.flag));
        token.push(&self.value);
        token
    }
}

/// What variables say about the flags that were not `given`. Empty variables say nothing.
///
/// # Errors
/// Names the variable whose value makes no sense; flanneld would go on without it.
pub(super) fn missing(
    command: &mut Command,
    given: &BTreeSet<String>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Setting>, clap::Error> {
    let flags: Vec<String> =
        command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect();
    let mut settings = Vec::new();
    for flag in flags {
        // flanneld looks at --version before it looks at the environment, and packagers set FLANNELD_VERSION=v0.28.
        if given.contains(&flag) || flag == "version" || flag == "help" {
            continue;
        }
        let name = variable_name(&flag);
        let Some(value) = variable(&name).filter(|value| !value.is_empty()) else { continue };
        let setting = Setting { flag, variable: name, value };
        if let Err(error) = command.try_get_matches_from_mut([OsString::from("ovl-agent"), setting.token()]) {
            let error = error.to_string();
            let reason = error.lines().next().unwrap_or_default();
            let reason = reason.strip_prefix("error: ").unwrap_or(reason);
            let reason = format!("environment variable {}: {reason}", setting.variable);
            return Err(command.error(ErrorKind::ValueValidation, reason));
        }
        settings.push(setting);
    }
    Ok(settings)
}

/// `FLANNELD_` and the flag's name in capitals, with `_` for `-` and `.`.
pub(super) fn variable_name(flag: &str) -> String {
    format!("FLANNELD_{}", flag.to_uppercase().replace(['-', '.'], "_"))
}
