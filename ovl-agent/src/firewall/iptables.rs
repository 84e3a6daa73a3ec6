//! The rules in iptables' tables.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tracing::info;

use super::command::Failure;
use super::fingerprint::Place;
use super::{Also, Change, Outcome, Wanted, legacy};
use crate::family::{ByFamily, Family};

mod names;
mod plan;
mod save;
mod tools;
mod variant;

use names::Names;
use plan::{Part, plan};
use tools::{Tool, Tools, Variant, plain_name};
use variant::{Census, choose};

/// What the agent knows of iptables on this host.
#[derive(Debug, Default)]
pub(super) struct Iptables {
    names: Option<Names>,
    tools: ByFamily<Tools>,
    variant: Option<Variant>,
}

/// The rules of one family in one variant.
struct Look {
    family: Family,
    variant: Variant,
    tool: Tool,
    save: String,
}

impl Look {
    fn tables(&self) -> BTreeMap<&str, save::Table<'_>> {
        save::parse(&self.save)
    }
}

impl Iptables {
    /// Looks at the rules once, and mends what is wrong with those of the overlay `tag`. Looks at all families where
    /// `thorough`, otherwise at those that are wanted.
    pub(super) async fn mend(&mut self, tag: &str, wanted: &Wanted, thorough: bool, outcome: &mut Outcome) {
        let needed = |family| wanted.any_rules() && wanted.ranges.get(family).is_some();
        let mut looks = Vec::new();
        for (family, found) in self.look(|family| thorough || needed(family)).await {
            match found {
                Ok(found) => looks.extend(found),
                Err(error) if needed(family) => outcome.errors.push(error),
                Err(_) => {}
            }
        }
        if looks.is_empty() {
            return;
        }
        let names = self.names.get_or_insert_with(|| {
            let tables: Vec<_> = looks.iter().flat_map(|look| look.tables().into_values()).collect();
            Names::decide(tag, tables.iter())
        });
        let tag = names.tag(tag);
        let variant = self.choose(&looks);

        let errors = outcome.errors.len();
        for look in looks.iter().filter(|look| look.variant == variant) {
            let range = wanted.ranges.get(look.family);
            look.mend(&names::parts(tag, wanted, range, look.tool.knows_random_fully()), false, outcome)
                .await;
        }
        for (family, _) in wanted.ranges.iter().filter(|(family, _)| needed(*family)) {
            let mut of_family = looks.iter().filter(|look| look.family == family).peekable();
            if of_family.peek().is_some() && of_family.all(|look| look.variant != variant) {
                let name = plain_name(family);
                outcome.errors.push(format!(
                    "this host's rules are in iptables' {variant} variant, but {name} has only the other; install {name}-{variant}"
                ));
            }
        }
        // First the new, then the old.
        if outcome.errors.len() == errors {
            for look in looks.iter().filter(|look| look.variant != variant) {
                look.mend(&names::absent(tag), false, outcome).await;
            }
        }
    }

    /// Has the next look ask anew which programs there are.
    pub(super) fn search_again(&mut self) {
        self.tools = ByFamily::default();
    }

    /// What to look at in nftables, where the nft variant keeps its rules: our chains and those that lead there, and
    /// where a kubelet says which variant it uses.
    pub(super) fn places(&self, tag: &str) -> Vec<Place> {
        let tag = self.names.as_ref().and_then(|names| names.tag(tag));
        let mut places = Vec::new();
        for family in Family::ALL {
            for part in names::absent(tag) {
                let table = Place::table(Some(family), part.table);
                places.extend([part.hook, &part.chain, plan::MARKER].map(|chain| table.chain(chain)));
            }
            let mangle = Place::table(Some(family), "mangle");
            places.extend(variant::KUBELETS.map(|chain| mangle.chain(chain)));
        }
        places
    }

    /// Removes what there is of the overlay `tag` and of flannel: the rules are elsewhere now. Programs that are not
    /// installed left nothing.
    pub(super) async fn retire(&mut self, tag: &str, outcome: &mut Outcome) {
        *self = Self { tools: std::mem::take(&mut self.tools), ..Self::default() };
        let flannels = names::claim_flannels();
        for look in self.look_everywhere().await {
            look.mend(&names::absent(Some(tag)), false, outcome).await;
            if flannels.is_some() {
                look.mend(&names::absent(None), false, outcome).await;
            }
        }
    }

    /// Removes the chains that agents made which do not run any more, and those that `also` names.
    pub(super) async fn remove(&mut self, also: Also, dry_run: bool, outcome: &mut Outcome) {
        let flannels = names::claim_flannels();
        for look in self.look_everywhere().await {
            let tables = look.tables();
            let chains = tables.values().flat_map(save::Table::chains).map(|(chain, _)| chain);
            let mut tags: Vec<&str> = chains.filter_map(names::tag_of).collect();
            tags.sort_unstable();
            tags.dedup();
            for tag in tags.into_iter().filter(|tag| also.takes(tag)) {
                look.mend(&names::absent(Some(tag)), dry_run, outcome).await;
            }
            let marked = tables.values().any(|table| table.chain(plan::MARKER).is_some());
            if (also.in_use || flannels.is_some()) && (also.flannels || marked) {
                look.mend(&names::absent(None), dry_run, outcome).await;
            }
        }
    }

    /// Whatever can be read of the rules of both families.
    async fn look_everywhere(&mut self) -> Vec<Look> {
        let found = self.look(|_family| true).await;
        found.into_iter().flat_map(|(_, looks)| looks.unwrap_or_default()).collect()
    }

    /// The rules of the families that are `asked` for, in the variants that work here. All families at once: most of the
    /// time goes into starting processes.
    async fn look(&mut self, asked: impl Fn(Family) -> bool) -> Vec<(Family, Result<Vec<Look>, String>)> {
        let families = || Family::ALL.into_iter().filter(|family| asked(*family));
        let unknown = families().filter(|family| self.tools.get(*family).is_none());
        let search = async |family| (family, Tools::find(family).await);
        for (family, tools) in join_all(unknown.map(search)).await {
            self.tools.set(family, Some(tools));
        }
        // Of legacy iptables nothing need be known where nobody uses it.
        let with_legacy = Family::ALL.into_iter().any(|family| !legacy::tables(family).is_empty())
            || self.tools.iter().any(|(_, tools)| tools.default() != Some(Variant::Nft));
        let known = families().filter_map(|family| Some((family, self.tools.get(family)?)));
        join_all(known.map(async |(family, tools)| (family, look(family, tools, with_legacy).await))).await
    }

    fn choose(&mut self, looks: &[Look]) -> Variant {
        let census = |variant| {
            let mut census = Census::default();
            looks.iter().filter(|look| look.variant == variant).for_each(|look| census.count(&look.tables()));
            census
        };
        let has = |variant| looks.iter().any(|look| look.variant == variant);
        let default = self.tools.iter().find_map(|(_, tools)| tools.default()).unwrap_or(Variant::Nft);
        let variant = match (has(Variant::Nft), has(Variant::Legacy)) {
            (true, false) => Variant::Nft,
            (false, true) => Variant::Legacy,
            _ => choose(self.variant, default, census(Variant::Nft), census(Variant::Legacy)),
        };
        if self.variant != Some(variant) {
            info!("firewall rules go where the host's are: iptables in its {variant} variant");
            self.variant = Some(variant);
        }
        variant
    }
}

/// The family's rules in the variants that work here; `with_legacy`: even where nft's do.
async fn look(family: Family, tools: &Tools, with_legacy: bool) -> Result<Vec<Look>, String> {
    let mut looks = Vec::new();
    let mut refusals = Vec::new();
    for variant in Variant::ALL {
        if variant == Variant::Legacy && !with_legacy && !looks.is_empty() {
            continue;
        }
        let Some(tool) = tools.get(variant).await else { continue };
        let save = match variant {
            // Asking would load the module.
            Variant::Legacy if legacy::tables(family).is_empty() => Ok(String::new()),
            Variant::Nft | Variant::Legacy => tool.save().await,
        };
        match save {
            Ok(save) => looks.push(Look { family, variant, tool: tool.clone(), save }),
            Err(Failure::Missing(why) | Failure::Refused(why)) => refusals.push(why),
        }
    }
    match (looks.is_empty(), refusals.is_empty()) {
        (false, _) => Ok(looks),
        (true, false) => Err(format!("cannot read the {family} rules: {}", refusals.join("; "))),
        (true, true) => Err(format!(
            "the {family} rules need {}, which is not installed: install iptables, or set EnableNFTables in \
             the network config",
            plain_name(family)
        )),
    }
}

impl Look {
    /// Makes the tables hold `parts`; with `dry_run` it only tells what that would change.
    async fn mend(&self, parts: &[Part], dry_run: bool, outcome: &mut Outcome) {
        let tables = self.tables();
        let empty = save::Table::default();
        for part in parts {
            let Some(plan) = plan(tables.get(part.table).unwrap_or(&empty), part) else { continue };
            let place = format!("{} {} ({})", self.family, part.table, self.variant);
            let written = if dry_run { Ok(()) } else { self.tool.restore(&plan.restore).await };
            match written {
                Ok(()) => outcome.changes.push(Change { place, reason: plan.reasons.join(", ") }),
                Err(error) => outcome.errors.push(format!("cannot write the rules of {place}: {error}")),
            }
        }
    }
}
