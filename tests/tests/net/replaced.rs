//! Interfaces whose names others take over.

use anyhow::Result;
use aya::programs::{SchedClassifier, TcAttachType};
use ovl_agent::bpf::{Attachment, AttachmentTable, DataPlane, Hook, ObjectSource, TcAttach, TcxOrder};
use ovl_agent::netlink::connect;
use ovl_agent::table::Table as _;
use ovl_common::{Encapsulation, Program};
use ovl_tests::links;
use ovl_tests::netns::{Netns, unique_prefix};

/// A hook of the device that has the name now.
fn hook(netns: &Netns) -> Hook {
    let shown = links::ip_json(netns, "link show dev replaced").unwrap();
    let ifindex = u32::try_from(shown[0]["ifindex"].as_u64().unwrap()).unwrap();
    Hook { ifindex, program: Program::ToOverlay }
}

/// How many programs see what leaves by the device, by tcx or by clsact.
fn attached(netns: &Netns) -> usize {
    let filters = netns.command("tc").words("filter show dev replaced egress").run().unwrap();
    SchedClassifier::query_tcx("replaced", TcAttachType::Egress).unwrap().1.len()
        + filters.matches("direct-action").count()
}

#[test]
fn a_program_goes_to_an_interface_and_not_to_whoever_has_its_name() {
    for how in [TcAttach::Tcx, TcAttach::Clsact] {
        is_of_its_interface(how);
    }
}

fn is_of_its_interface(how: TcAttach) {
    let netns = Netns::create(&unique_prefix("replaced")).unwrap();
    let add = || netns.ip("link add replaced type bridge").unwrap();
    add();
    let gone = hook(&netns);
    netns.ip("link del replaced").unwrap();
    add();
    let there = hook(&netns);
    let work = async || -> Result<()> {
        let mut plane = DataPlane::load(&ObjectSource::Embedded, Encapsulation::None, 16, None)?;
        let mut table = AttachmentTable::new(connect()?, how, TcxOrder::First, "10.42.0.0/16");
        let mut attaching = table.with(&mut plane.programs);
        let row = Attachment::tc("replaced");
        attaching.put(&gone, &row).await?;
        assert_eq!((attaching.rows().await?.len(), attached(&netns)), (0, 0));
        attaching.put(&there, &row).await?;
        assert_eq!(
            (attaching.rows().await?.into_keys().collect::<Vec<_>>(), attached(&netns)),
            (vec![there], 1)
        );

        netns.ip("link del replaced")?;
        add();
        let again = hook(&netns);
        attaching.put(&again, &row).await?;
        assert_eq!(
            (attaching.rows().await?.into_keys().collect::<Vec<_>>(), attached(&netns)),
            (vec![again], 1)
        );
        Ok(())
    };
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work()).unwrap();
    };
    netns.inside(run).unwrap();
}
