//! What flags mean together, and what to say about them in the log.

use std::collections::BTreeSet;

use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Command};

use super::environment::Setting;
use super::run::{ETCD, KUBERNETES, RunArgs};
use super::value::{Secret, unless_empty};
use crate::store::etcd::without_credentials;
use crate::store::kubernetes::NodeName;
use crate::underlay;

/// The flags as they were given.
pub(super) struct Asked<'a> {
    /// clap's description of them.
    pub(super) command: &'a Command,
    /// Their values and where those come from.
    pub(super) matches: &'a ArgMatches,
    /// Those that variables set.
    pub(super) environment: &'a [Setting],
}

impl Asked<'_> {
    /// Refuses what goes together badly or cannot be honoured. Returns what has no effect or one that surprises, for the
    /// log.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn check(&self, run: &mut RunArgs) -> Result<Vec<String>, String> {
        for (flag, value) in [("vmodule", &run.vmodule), ("log_backtrace_at", &run.log_backtrace_at)] {
            if !value.is_empty() {
                return Err(format!(
                    "--{flag} names flanneld's own source files, which this program does not have; use -v or RUST_LOG"
                ));
            }
        }
        run.etcd_options().check()?;
        run.etcd_endpoints.retain(|endpoint| !endpoint.is_empty());
        if run.etcd_endpoints.is_empty() {
            return Err("--etcd-endpoints is empty; name at least one URL".to_owned());
        }
        run.iface_regex.iter().try_for_each(|text| underlay::pattern("iface-regex", text).map(drop))?;
        let pods = run.pod_interface_regex.iter();
        pods.map(|text| underlay::pattern("pod-interface-regex", text))
            .try_for_each(|pattern| pattern.map(drop))?;
        let mut warnings = Vec::new();
        if run.store.is_some() {
            if run.kube_subnet_mgr {
                return Err(
                    "--store and --kube-subnet-mgr exclude each other: either a directory or Kubernetes"
                        .to_owned(),
                );
            }
            let (by_variable, by_flag) = self.changed_under(ETCD);
            if let Some(flag) = by_flag.first() {
                return Err(format!("--store and {flag} exclude each other: either a directory or etcd"));
            }
            warnings.extend(no_effect(&by_variable, "with --store"));
        }
        if run.kube_subnet_mgr {
            run.kubernetes_options(NodeName::Known(String::new()))?;
            let (by_variable, by_flag) = self.changed_under(ETCD);
            warnings.extend(no_effect(&[by_variable, by_flag].concat(), "with --kube-subnet-mgr"));
        } else {
            let (by_variable, by_flag) = self.changed_under(KUBERNETES);
            warnings.extend(no_effect(&[by_variable, by_flag].concat(), "without --kube-subnet-mgr"));
        }
        if run.cni_conf.is_some() && !run.ip_masq {
            warnings.push(
                "--cni-conf without --ip-masq has the bridge plugin masquerade, which it does between pods of different \
                 nodes, too: what is masqueraded stays on the kernel path"
                    .to_owned(),
            );
        }
        Ok(warnings)
    }

    /// Everything that differs from its default, as flags in one line, without secrets.
    pub(super) fn options(&self) -> String {
        let words = self.changed().flat_map(|(arg, name)| {
            self.values(arg).into_iter().map(move |value| format!("--{name}={}", presentable(arg, &value)))
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// What differs from its default under a heading: by the variables' names, and by the flags'.
    fn changed_under(&self, heading: &str) -> (Vec<String>, Vec<String>) {
        let variables: BTreeSet<_> = self
            .environment
            .iter()
            .map(|setting| (setting.flag.as_str(), setting.variable.as_str()))
            .collect();
        let (mut by_variable, mut by_flag) = (Vec::new(), Vec::new());
        for (_, name) in self.changed().filter(|(arg, _)| arg.get_help_heading() == Some(heading)) {
            match variables.iter().find(|(flag, _)| *flag == name) {
                Some((_, variable)) => by_variable.push((*variable).to_owned()),
                None => by_flag.push(format!("--{name}")),
            }
        }
        (by_variable, by_flag)
    }

    fn changed(&self) -> impl Iterator<Item = (&Arg, &str)> {
        self.command.get_arguments().filter_map(|arg| {
            let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
            (!self.values(arg).into_iter().eq(defaults)).then_some((arg, arg.get_long()?))
        })
    }

    /// The values of a flag as they were given, or its default; a list is one.
    fn values(&self, arg: &Arg) -> Vec<String> {
        let raw = self.matches.try_get_raw(arg.get_id().as_str()).ok().flatten();
        let values: Vec<String> =
            raw.into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect();
        match arg.get_value_delimiter() {
            Some(delimiter) => vec![values.join(&String::from(delimiter))],
            None => values,
        }
    }
}

fn no_effect(names: &[String], why: &str) -> Option<String> {
    (!names.is_empty()).then(|| format!("no effect {why}: {}", names.join(", ")))
}

/// The value as the log may show it: passwords are not shown, those in URLs neither. Any flag may be given a URL that
/// was meant for another.
fn presentable(arg: &Arg, value: &str) -> String {
    if arg.get_value_parser().type_id() == ValueParser::new(unless_empty::<Secret>).type_id() {
        return "***".to_owned();
    }
    without_credentials(value)
}
