//! The gRPC service: turns messages into typed requests and answers into messages. It decides nothing.
//!
//! | file | what is there |
//! | --- | --- |
//! | `mod` | the calls |
//! | `check` | what a request must look like |
//! | `errors` | which status and details each error has |
//! | `watch` | the streams of events and of machines |
//! | `console`, `qmp` | the console stream, the QMP stream |
//! | `record` | the stream of a recording |

mod check;
mod console;
mod errors;
mod qmp;
mod record;
mod watch;

use std::{pin::Pin, sync::Arc};

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status as Refusal, Streaming};
use vmd_proto::v1::{self, vm_service_server::VmService};
use vmm::runstate::Command;

use crate::{
    Daemon, convert,
    qmp::Machine,
    vm::{self, Status, VmError, VmHandle},
};

/// What a stream is made from: its task ends when the reader goes away.
type Sender<T> = mpsc::Sender<Result<T, Refusal>>;
type BoxedStream<T> = Pin<Box<dyn Stream<Item = Result<T, Refusal>> + Send>>;

/// Messages that wait for a slow reader, beyond what the connection holds.
const STREAM_BUFFER: usize = 16;

/// Serves `vmd.v1.VmService` for one daemon.
pub(crate) struct Service {
    daemon: Arc<Daemon>,
}

impl Service {
    /// The service of `daemon`.
    pub(crate) fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }

    fn find(&self, name: &str) -> Result<Arc<VmHandle>, Refusal> {
        self.daemon
            .find(name)
            .ok_or_else(|| errors::not_found(name))
    }

    async fn command(
        &self,
        name: &str,
        command: Command,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        let status = self.find(name)?.command(command).await;
        Ok(answer(&status.map_err(|error| errors::vm(name, &error))?))
    }
}

fn answer(status: &Status) -> Response<v1::CommandResponse> {
    Response::new(v1::CommandResponse {
        status: Some(convert::status(status)),
        seq: status.seq,
    })
}

/// A stream that `task` feeds.
fn stream<T, F>(task: impl FnOnce(Sender<T>) -> F) -> Response<BoxedStream<T>>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
    tokio::spawn(task(sender));
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

#[tonic::async_trait]
impl VmService for Service {
    async fn create_vm(
        &self,
        request: Request<v1::CreateVmRequest>,
    ) -> Result<Response<v1::CreateVmResponse>, Refusal> {
        let v1::CreateVmRequest {
            name,
            definition,
            paused,
        } = request.into_inner();
        check::name(&name)?;
        let definition = check::definition(&self.daemon, definition.unwrap_or_default())?;
        // A caller that goes away must not leave a half-made machine: the creation goes on without it.
        let create = {
            let (daemon, name) = (self.daemon.clone(), name.clone());
            async move { vm::create(&daemon, &name, definition, paused, None).await }
        };
        let (vm, status) = self
            .daemon
            .creations
            .spawn(create)
            .await
            .map_err(|error| errors::internal(&name, &error.to_string()))?
            .map_err(|error| errors::vm(&name, &error))?;
        let vm = Some(convert::vm(&vm, &status));
        Ok(Response::new(v1::CreateVmResponse {
            vm,
            seq: status.seq,
        }))
    }

    async fn get_vm(
        &self,
        request: Request<v1::GetVmRequest>,
    ) -> Result<Response<v1::GetVmResponse>, Refusal> {
        let vm = self.find(&request.get_ref().name)?;
        let vm = Some(convert::vm(&vm, &vm.status()));
        Ok(Response::new(v1::GetVmResponse { vm }))
    }

    async fn list_vms(
        &self,
        _: Request<v1::ListVmsRequest>,
    ) -> Result<Response<v1::ListVmsResponse>, Refusal> {
        // Read first: the machines are at least as new.
        let seq = self.daemon.events.newest();
        let vms = self.daemon.registry.list();
        let vms = vms.iter().map(|vm| convert::vm(vm, &vm.status())).collect();
        Ok(Response::new(v1::ListVmsResponse { vms, seq }))
    }

    async fn delete_vm(
        &self,
        request: Request<v1::DeleteVmRequest>,
    ) -> Result<Response<v1::DeleteVmResponse>, Refusal> {
        let v1::DeleteVmRequest { name, force } = request.into_inner();
        let status = self.find(&name)?.delete(force).await;
        let seq = status.map_err(|error| errors::vm(&name, &error))?.seq;
        Ok(Response::new(v1::DeleteVmResponse { seq }))
    }

    async fn start_vm(
        &self,
        request: Request<v1::StartVmRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        let v1::StartVmRequest { name, paused } = request.into_inner();
        let status = self.find(&name)?.start(paused).await;
        Ok(answer(&status.map_err(|error| errors::vm(&name, &error))?))
    }

    async fn cont(
        &self,
        request: Request<v1::ContRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        self.command(&request.get_ref().name, Command::Cont).await
    }

    async fn stop(
        &self,
        request: Request<v1::StopRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        self.command(&request.get_ref().name, Command::Stop).await
    }

    async fn system_reset(
        &self,
        request: Request<v1::SystemResetRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        self.command(&request.get_ref().name, Command::SystemReset)
            .await
    }

    async fn system_powerdown(
        &self,
        request: Request<v1::SystemPowerdownRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        self.command(&request.get_ref().name, Command::SystemPowerdown)
            .await
    }

    async fn system_wakeup(
        &self,
        request: Request<v1::SystemWakeupRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        self.command(&request.get_ref().name, Command::SystemWakeup)
            .await
    }

    async fn inject_nmi(
        &self,
        request: Request<v1::InjectNmiRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        self.command(&request.get_ref().name, Command::InjectNmi)
            .await
    }

    async fn set_action(
        &self,
        request: Request<v1::SetActionRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        let v1::SetActionRequest { name, actions } = request.into_inner();
        let change = check::actions("actions", &actions.unwrap_or_default())?;
        self.command(&name, Command::SetAction(change)).await
    }

    async fn quit(
        &self,
        request: Request<v1::QuitRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        self.command(&request.get_ref().name, Command::Quit).await
    }

    type WatchEventsStream = BoxedStream<v1::Event>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Refusal> {
        let daemon = self.daemon.clone();
        let request = request.into_inner();
        // What is already lost is told at once, as the answer to the call.
        daemon
            .events
            .read_after(request.after_seq)
            .map_err(|lost| errors::lost(&lost))?;
        Ok(stream(|sender| watch::events(daemon, request, sender)))
    }

    type WatchVmsStream = BoxedStream<v1::WatchVmsResponse>;

    async fn watch_vms(
        &self,
        request: Request<v1::WatchVmsRequest>,
    ) -> Result<Response<Self::WatchVmsStream>, Refusal> {
        let daemon = self.daemon.clone();
        let name = request.into_inner().name;
        Ok(stream(|sender| watch::vms(daemon, name, sender)))
    }

    type RecordStream = BoxedStream<v1::RecordResponse>;

    async fn record(
        &self,
        request: Request<v1::RecordRequest>,
    ) -> Result<Response<Self::RecordStream>, Refusal> {
        let name = &request.get_ref().name;
        let lines = self.find(name)?.record().await;
        let lines = lines.map_err(|error| errors::vm(name, &error))?;
        Ok(stream(|sender| record::serve(lines, sender)))
    }

    type ConsoleStream = BoxedStream<v1::ConsoleResponse>;

    async fn console(
        &self,
        request: Request<Streaming<v1::ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Refusal> {
        let mut requests = request.into_inner();
        let first = requests.next().await.transpose()?.unwrap_or_default();
        let console = self.find(&first.name)?.console();
        Ok(stream(|sender| {
            console::serve(console, first, requests, sender)
        }))
    }
    type QmpStream = BoxedStream<v1::QmpResponse>;

    async fn qmp(
        &self,
        request: Request<Streaming<v1::QmpRequest>>,
    ) -> Result<Response<Self::QmpStream>, Refusal> {
        let mut requests = request.into_inner();
        let first = requests.next().await.transpose()?.unwrap_or_default();
        let vm = self.find(&first.name)?;
        if vm.status().end.is_some() {
            return Err(errors::vm(&first.name, &VmError::Ended));
        }
        let daemon = self.daemon.clone();
        let machine = Machine { daemon, vm };
        Ok(stream(|sender| {
            qmp::serve(machine, first, requests, sender)
        }))
    }
}
