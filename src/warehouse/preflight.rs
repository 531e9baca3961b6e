//! What the warehouse lacks, each with the statement that mends it. Changes nothing.

use tokio_postgres::GenericClient;

use crate::error::{Error, Kind, Result};
use crate::postgres::quote;

/// The oldest warehouse that is supported.
const OLDEST: i32 = 150_000;

/// Refuses a warehouse that cannot be written as we write it; `makes` if schemas and tables are made.
pub async fn refuse_unfit(warehouse: &impl GenericClient, makes: bool) -> Result<()> {
    const QUERY: &str = "
        select current_setting('server_version_num')::int4,
               pg_is_in_recovery(),
               has_database_privilege(current_database(), 'CREATE'),
               current_database()::text, current_user::text";
    let failed = |error| Error::warehouse("reading its settings", error);
    let row = warehouse.query_one(QUERY, &[]).await.map_err(failed)?;
    let (version, standby): (i32, bool) =
        (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    let creates: bool = row.try_get(2).map_err(failed)?;
    let (database, role): (String, String) =
        (row.try_get(3).map_err(failed)?, row.try_get(4).map_err(failed)?);
    if version < OLDEST {
        let what = format!("the warehouse is Postgres {}", version / 10_000);
        return Err(Error::new(Kind::Config, what).remedy("upgrade it to Postgres 15 or newer"));
    }
    if standby {
        return Err(Error::new(Kind::WarehouseAway, "the warehouse is a standby for now"));
    }
    if makes && !creates {
        let what = format!("role {role} may not make schemas in the warehouse");
        let (database, role) = (quote::ident(&database), quote::ident(&role));
        return Err(Error::new(Kind::Rights, what)
            .remedy(format!("grant create on database {database} to {role}")));
    }
    Ok(())
}
