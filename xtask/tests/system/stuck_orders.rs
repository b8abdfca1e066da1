//! Orders whose messages were purged: `orders stuck` finds them, `orders repair` ends them, and no volume is deleted.

use std::time::Duration;

use crate::{
    client::{TestUser, text},
    system::System,
    wait,
};

const DEAD_WITHIN: Duration = Duration::from_secs(20);
const SINCE: [&str; 2] = ["--older-than", "1s"];

/// Has every message that inventory-service gets rejected, until this is dropped.
struct Refusing<'a>(&'a System);

impl<'a> Refusing<'a> {
    fn begin(system: &'a System) -> Self {
        let refuse = "ALTER TABLE inbox ADD CONSTRAINT refused CHECK (false) NOT VALID";
        system.query("inventory", refuse);
        Self(system)
    }
}

impl Drop for Refusing<'_> {
    fn drop(&mut self) {
        let accept = "ALTER TABLE inbox DROP CONSTRAINT refused";
        // It has complained already.
        let _ = self.0.put_back(&[("inventory", accept)]);
    }
}

#[test]
fn orders_whose_messages_were_purged_are_found_and_repaired_by_hand() {
    let system = System::take_turn();
    let ada = TestUser::new(&system.gateway);
    let headers = [("authorization", ada.authorization.as_str())];
    let status = |id: &str| {
        let path = format!("/orders/{id}");
        let answer = system.gateway.get(&path, &headers).expect_status(200);
        text(&answer.json(), "status")
    };
    let until = |id: &str, wanted: &str| {
        wait::until("the order's status", DEAD_WITHIN, || match status(id) {
            found if found == wanted => Ok(()),
            found => Err(format!("{id} is {found}")),
        });
    };
    let before = ada.available(&system.gateway);
    let cancelled = ada.order(&system.gateway);
    until(&cancelled, "confirmed");

    let refusing = Refusing::begin(&system);
    let cancel = format!("/orders/{cancelled}/cancel");
    system
        .gateway
        .post(&cancel, &headers, None)
        .expect_status(202);
    let placed = ada.order(&system.gateway);
    wait::until("both messages to be dead", DEAD_WITHIN, || {
        let verdict = system.xtask(&["verify-dlq", "--expect", "2"]);
        match verdict.code {
            Some(0) => Ok(()),
            _ => Err(verdict.account()),
        }
    });
    drop(refusing);
    system.purge_dead_letters();
    // Once more asked for, and nothing is sent.
    system
        .gateway
        .post(&cancel, &headers, None)
        .expect_status(202);

    let stuck = || {
        let args = [&["orders", "stuck", "--format", "json"][..], &SINCE].concat();
        system.xtask(&args)
    };
    wait::until("both to be stuck", DEAD_WITHIN, || {
        let stuck = stuck();
        match stuck.code {
            Some(1) if stuck.json()["stuck"] == 2 => Ok(()),
            _ => Err(stuck.account()),
        }
    });
    let report = stuck().expect_code(1).json();
    assert_eq!(report["outcome"], "failed");
    let waits_for = |id: &str| {
        let mut orders = report["orders"].as_array().expect("orders").iter();
        let order = orders.find(|order| order["order_id"] == id);
        order.map(|order| text(order, "waits_for"))
    };
    assert_eq!(waits_for(&cancelled).as_deref(), Some("StockReleased"));
    assert_eq!(
        waits_for(&placed).as_deref(),
        Some("StockReserved or StockRejected")
    );

    let repair = [
        &["orders", "repair", "--wait", "40s", "--format", "json"][..],
        &SINCE,
    ]
    .concat();
    let report = system.xtask(&repair).expect_code(0).json();
    assert_eq!((&report["ended"], &report["stuck"]), (&2.into(), &0.into()));
    assert_eq!(status(&cancelled), "cancelled");
    assert_eq!(status(&placed), "confirmed");
    assert_eq!(ada.available(&system.gateway), before - 1);
    stuck().expect_code(0);
    system.xtask(&["verify-dlq"]).expect_code(0);
    // What ended is nothing to be repaired.
    system.xtask(&["orders", "repair", &placed]).expect_code(1);
}
