//! Each service's role and its database: its own, and no other.

use crate::{program::Call, system::System};

/// Role, its database, and the variable of the postgres container that holds its password.
const ROLES: [(&str, &str, &str); 4] = [
    ("user_service", "users", "AGORA_USER_DB_PASSWORD"),
    ("product_service", "products", "AGORA_PRODUCT_DB_PASSWORD"),
    ("order_service", "orders", "AGORA_ORDER_DB_PASSWORD"),
    (
        "inventory_service",
        "inventory",
        "AGORA_INVENTORY_DB_PASSWORD",
    ),
];

#[test]
fn a_services_role_opens_its_own_database_and_no_other() {
    let system = System::take_turn();
    let postgres = system.container("postgres");
    for (role, own, password) in ROLES {
        let databases = ROLES.map(|(_, database, _)| database);
        for database in databases.into_iter().chain(["postgres", "template1"]) {
            // The password stays inside the container.
            let script = format!(
                "PGPASSWORD=${password} psql --no-psqlrc --host=127.0.0.1 --username={role} --dbname={database} \
                 --command='SELECT 1'"
            );
            let attempt = Call::new("docker", ["exec", &postgres, "bash", "-c", &script]).run();
            if database == own {
                attempt.expect_code(0);
                continue;
            }
            assert!(
                attempt
                    .stderr
                    .contains(&format!("permission denied for database \"{database}\"")),
                "{role} at {database}: {}",
                attempt.account()
            );
        }
    }
}
