//! What every store must do, run against each of them, and what only one of them does.
//!
//! Values are written and read behind the store's back: as files, or with `etcdctl`.

#![expect(clippy::unwrap_used, reason = "a test may panic, and its helpers too")]

mod acquire;
mod auth;
mod certificates;
mod cluster;
mod directory;
mod etcd;
mod etcd_terms;
mod etcd_watch;
mod fixture;
mod identity;
mod kubernetes;
mod primitives;
mod proxy;
mod secured;
mod stranger;
mod tls;
mod values;
mod watch;
mod watcher;

/// What every store must do: every case for a fixture. The one list, so that no store can be left out of a case.
macro_rules! conformance {
    ($fixture:ty) => {
        crate::conformance!($fixture:
            primitives::the_config_is_none_then_what_was_written_last,
            watch::a_snapshot_comes_first_then_changes,
            watch::a_config_written_before_the_first_snapshot_is_noticed,
            watch::garbage_disturbs_nothing_else,
            watch::an_outage_removes_nothing,
            watch::it_ends_when_nobody_listens,
        );
    };
    ($fixture:ty: $($module:ident::$case:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                let mut fixture = <$fixture as crate::fixture::Fixture>::start();
                crate::$module::$case(&mut fixture).await;
            }
        )*
    };
}
pub(crate) use conformance;

/// What every store must do besides in which agents choose their subnets.
macro_rules! registry_conformance {
    ($fixture:ty) => {
        crate::conformance!($fixture);
        crate::conformance!($fixture:
            primitives::a_lease_is_created_once,
            primitives::no_two_leases_have_addresses_in_common,
            primitives::what_was_created_is_listed,
            primitives::a_take_over_replaces_what_was_listed,
            primitives::a_take_over_of_what_has_changed_is_a_conflict,
            primitives::a_renewal_keeps_the_lease,
            primitives::a_renewal_after_somebody_else_wrote_is_a_conflict,
            primitives::a_lease_is_exchanged_in_one_step,
            primitives::garbage_is_rejected_by_name,
            acquire::a_fresh_node_gets_a_subnet,
            acquire::a_node_gets_its_own_lease_again,
            acquire::a_node_without_a_lease_gets_its_previous_subnet,
            acquire::an_own_lease_that_does_not_fit_is_replaced,
            acquire::garbage_is_not_given_out,
            acquire::without_a_free_subnet_the_error_says_so,
            acquire::twenty_nodes_race_for_twenty_subnets,
            acquire::dual_stack_nodes_race_for_both_families,
            primitives::an_outage_is_no_empty_store,
            identity::a_second_claimant_is_refused_by_name,
            identity::a_claim_is_made_again_by_its_holder,
            identity::a_released_claim_is_free,
            identity::a_dead_claimant_is_replaced_at_once,
        );
    };
}
pub(crate) use registry_conformance;
