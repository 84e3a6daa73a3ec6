//! A namespace with a [`Firewall`] in it, and what other tools see there.

use std::fmt::{self, Write as _};
use std::fs;
use std::time::Duration;

use ovl_agent::family::ByFamily;
use ovl_agent::firewall::{self, Also, Firewall, Masquerade, Mode, Outcome, Range, Wanted};
use ovl_tests::background::Background;
use ovl_tests::command::Cmd;
use ovl_tests::netns::{self, Netns};
use ovl_tests::wait::wait_for;

/// Network and subnet of each family.
pub(crate) const RANGES: [(&str, &str); 2] =
    [("10.42.0.0/16", "10.42.7.0/24"), ("fd77::/48", "fd77:0:0:5::/64")];

/// The two homes of iptables' rules, as in the names of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Nft,
    Legacy,
}

impl Variant {
    pub(crate) const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    pub(crate) fn other(self) -> Self {
        if self == Self::Nft { Self::Legacy } else { Self::Nft }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Nft { "nft" } else { "legacy" })
    }
}

/// Both families, masquerading and forwarding.
pub(crate) fn wanted(mode: Mode) -> Wanted {
    let range = |(network, subnet): (&str, &str)| {
        Some(Range { network: network.parse().unwrap(), subnet: subnet.parse().unwrap() })
    };
    Wanted {
        mode,
        ranges: ByFamily { v4: range(RANGES[0]), v6: range(RANGES[1]) },
        masquerade: Some(Masquerade { random_fully: true }),
        forward: true,
    }
}

/// The namespace, and the state of the agent's firewall in it.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    firewall: Option<Firewall>,
}

impl Host {
    pub(crate) fn new() -> Self {
        netns::sweep_stale().unwrap();
        Self { netns: Netns::create(&netns::unique_prefix("fw")).unwrap(), firewall: None }
    }

    /// A host on which others have rules in `variant`.
    pub(crate) fn of_variant(variant: Variant) -> Self {
        let host = Self::new();
        for six in ["", "6"] {
            host.sh(&format!("ip{six}tables-{variant} -A FORWARD -i eth9 -j DROP"));
            host.sh(&format!("ip{six}tables-{variant} -t nat -A POSTROUTING -o eth9 -j ACCEPT"));
        }
        host
    }

    /// Starts to describe a command that runs in the namespace.
    pub(crate) fn command(&self, program: &str) -> Cmd {
        self.netns.command(program)
    }

    /// Runs a script in the namespace.
    pub(crate) fn sh(&self, script: &str) -> String {
        self.netns.command("sh").args(["-e", "-c", script]).run().unwrap()
    }

    /// Runs `work` on a thread in the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.inside(work).unwrap()
    }

    /// What the agent does at start and every few seconds.
    pub(crate) fn ensure(&mut self, wanted: &Wanted) -> Outcome {
        let firewall = self.firewall.take();
        let (firewall, outcome) = self.inside(|| {
            let mut firewall = firewall.unwrap_or_else(|| Firewall::new("flannel.1"));
            let outcome = block_on(firewall.ensure(wanted));
            (firewall, outcome)
        });
        self.firewall = Some(firewall);
        outcome
    }

    /// The same, where nothing may go wrong.
    pub(crate) fn ensure_well(&mut self, wanted: &Wanted) -> Outcome {
        let outcome = self.ensure(wanted);
        assert_eq!(outcome.errors, [""; 0], "{outcome:?}");
        outcome
    }

    /// The agent's process ends; its rules stay.
    pub(crate) fn end_agent(&mut self) {
        self.firewall = None;
    }

    /// What `ovl-agent cleanup` does, with `--flannel` where `flannels`.
    pub(crate) fn remove_all(&self, flannels: bool) -> Outcome {
        self.inside(|| block_on(firewall::remove_all(Also { in_use: false, flannels }, false)))
    }

    /// What `ovl-agent cleanup --force` does, or with `--dry-run` would do.
    pub(crate) fn remove_by_force(&self, dry_run: bool) -> Outcome {
        self.inside(|| block_on(firewall::remove_all(Also { in_use: true, flannels: false }, dry_run)))
    }

    /// A table as `iptables-save` prints it, chains first, without comments and counters.
    pub(crate) fn table(&self, variant: Variant, six: &str, table: &str) -> Vec<String> {
        let save = self.save(variant, six);
        let lines = save.lines().skip_while(|line| *line != format!("*{table}")).skip(1);
        lines.take_while(|line| *line != "COMMIT").map(str::to_owned).collect()
    }

    /// All tables, in the order of their names.
    fn save(&self, variant: Variant, six: &str) -> String {
        let save = self.sh(&format!("ip{six}tables-{variant}-save"));
        let mut tables: Vec<String> = Vec::new();
        for line in save.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with('*') {
                tables.push(String::new());
            }
            let line = line.split(" [").next().unwrap_or(line);
            tables.last_mut().unwrap().extend([line, "\n"]);
        }
        tables.sort();
        tables.concat()
    }

    /// Runs `command` over and over, and counts the lines with `word` it prints each time.
    pub(crate) fn observe(&self, command: &str, word: &str) -> Observer {
        let script = format!("while :; do {command} 2>/dev/null | grep -c {word}; done");
        let command = self.netns.command("sh").arg("-c").arg(script);
        let observer = Observer(Background::start_unnamed(&command).unwrap());
        observer.wait_for_looks(3);
        observer
    }

    /// All rules of the namespace, in one text that differs when any of them does.
    pub(crate) fn everything(&self) -> String {
        let mut text = String::new();
        for variant in Variant::ALL {
            for six in ["", "6"] {
                writeln!(text, "ip{six}tables-{variant}\n{}", self.save(variant, six)).unwrap();
            }
        }
        // Without those of iptables-nft, where `nft` shows the chains in the order in which they were made.
        for table in self.sh("nft list tables").lines() {
            if !table.ends_with(" filter") && !table.ends_with(" nat") {
                text.push_str(&self.sh(&format!("nft -s list {table}")));
            }
        }
        text
    }
}

/// Looks at rules all the time.
pub(crate) struct Observer(Background);

impl Observer {
    fn looks(&self) -> Vec<usize> {
        let log = self.0.log();
        // The last line may be half written.
        let lines = log.rsplit_once('\n').map_or("", |(whole, _)| whole).lines();
        lines.map(|line| line.parse().unwrap()).collect()
    }

    fn wait_for_looks(&self, number: usize) {
        let seen = || Ok(self.looks().len() >= number);
        wait_for("the observer to look", Duration::from_secs(10), seen).unwrap();
    }

    /// What it counted, up to and including now.
    pub(crate) fn counts(self) -> Vec<usize> {
        self.wait_for_looks(self.looks().len() + 3);
        self.looks()
    }
}

/// Runs a future as the agent does: on one thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Page faults of all processes that this one has started and that have ended: every one has some.
pub(crate) fn faults_of_children() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(8).unwrap().parse().unwrap()
}
