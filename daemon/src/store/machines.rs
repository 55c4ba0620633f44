//! The table of machines.

use prost::Message;
use rusqlite::Connection;
use vmd_proto::v1::{Vm, VmStatus};

use super::{events::decode_error, queue::What};

/// Stores a change of the machine `id`.
pub(super) fn apply(connection: &Connection, id: &str, what: &What) -> rusqlite::Result<()> {
    match what {
        What::Status(status) => {
            let mut statement =
                connection.prepare_cached("UPDATE machines SET status = ?2 WHERE id = ?1")?;
            statement.execute((id, status.encode_to_vec()))?;
        }
        What::Machine(vm) => {
            let status = vm.status.clone().unwrap_or_default();
            let vm = Vm {
                status: None,
                ..vm.as_ref().clone()
            };
            let mut statement = connection.prepare_cached(
                "INSERT INTO machines (id, name, vm, status) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET vm = ?3, status = ?4",
            )?;
            statement.execute((id, &vm.name, vm.encode_to_vec(), status.encode_to_vec()))?;
        }
        What::Deleted => {
            let mut statement = connection.prepare_cached("DELETE FROM machines WHERE id = ?1")?;
            statement.execute([id])?;
        }
    }
    Ok(())
}

/// All of them, by name, each with its status.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<Vm>> {
    let mut statement = connection.prepare("SELECT vm, status FROM machines ORDER BY name")?;
    let rows = statement.query_map((), |row| {
        let vm = Vm::decode(row.get_ref(0)?.as_blob()?).map_err(|error| decode_error(0, error))?;
        let status = VmStatus::decode(row.get_ref(1)?.as_blob()?);
        let status = Some(status.map_err(|error| decode_error(1, error))?);
        Ok(Vm { status, ..vm })
    })?;
    rows.collect()
}
