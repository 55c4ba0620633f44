//! The gRPC service: turns messages into typed requests and answers into messages. It decides nothing.
//!
//! | file | what is there |
//! | --- | --- |
//! | `mod` | the calls |
//! | `idempotent`, `answers` | that a call with a request_id is served once |
//! | `deadline` | that a call is answered in its time |
//! | `check`, `labels`, `selector` | what a request must look like |
//! | `pages`, `update` | ListVms; UpdateVm, DeleteVm |
//! | `errors` | which status and details each error has |
//! | `watch`, `filter` | the streams of events and of machines; which events a reader wants |
//! | `console`, `qmp` | the console stream, the QMP stream |
//! | `record` | the stream of a recording |
//! | `paths` | paths that lead where they may not |
//! | `stats` | what a machine looks like from outside |

mod answers;
mod balloon;
pub(crate) mod check;
mod console;
mod console_ports;
pub(crate) mod deadline;
mod devices;
mod disks;
pub(crate) mod errors;
mod filter;
mod idempotent;
mod labels;
mod nets;
mod pages;
mod paths;
mod qmp;
mod rate_limit;
mod record;
mod restart;
mod selector;
mod stats;
mod update;
mod vsock;
mod watch;

pub(crate) use self::{check::MAX_NAME, idempotent::Service};

use std::{pin::Pin, sync::Arc};

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status as Refusal, Streaming};
use tracing::{Instrument, Span, field};
use vmd_proto::v1::{self, vm_service_server::VmService};
use vmm::{machine::DeviceCommand, runstate::Command};

use self::{check::Limits, filter::Filter, selector::Selector};
use crate::{
    Daemon, convert,
    qmp::Machine,
    vm::{self, Spec, Status, VmError, VmHandle},
};

/// What a stream is made from: its task ends when the reader goes away.
type Sender<T> = mpsc::Sender<Result<T, Refusal>>;
type BoxedStream<T> = Pin<Box<dyn Stream<Item = Result<T, Refusal>> + Send>>;

/// Messages that wait for a slow reader, beyond what the connection holds.
const STREAM_BUFFER: usize = 16;

/// The calls of `vmd.v1.VmService`, each as often as it comes.
pub(crate) struct Calls {
    daemon: Arc<Daemon>,
}

impl Calls {
    fn find(&self, name: &str) -> Result<Arc<VmHandle>, Refusal> {
        Span::current().record("vm", field::display(name));
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

    async fn device(
        &self,
        name: &str,
        command: DeviceCommand,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        let done = self.find(name)?.device(command).await;
        let (status, _) = done.map_err(|error| errors::vm(name, &error))?;
        Ok(answer(&status))
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
    tokio::spawn(task(sender).in_current_span());
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

#[tonic::async_trait]
impl VmService for Calls {
    async fn create_vm(
        &self,
        request: Request<v1::CreateVmRequest>,
    ) -> Result<Response<v1::CreateVmResponse>, Refusal> {
        let reach = check::reach(&self.daemon, request.extensions().get());
        let v1::CreateVmRequest {
            name,
            definition,
            paused,
            request_id: _,
            labels,
        } = request.into_inner();
        check::name(&name)?;
        Span::current().record("vm", field::display(&name));
        labels::labels(&labels)?;
        let definition = check::definition(
            &Limits::of(&self.daemon),
            reach,
            definition.unwrap_or_default(),
        )?;
        let spec = Spec::new(definition, labels);
        // A caller that goes away must not leave a half-made machine: the creation goes on without it.
        let create = {
            let (daemon, name) = (self.daemon.clone(), name.clone());
            async move { vm::create(&daemon, &name, spec, paused, None).await }
        };
        let (vm, status) = self
            .daemon
            .creations
            .spawn(create.in_current_span())
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
        let stats = Some(stats::of(&vm));
        let vm = Some(convert::vm(&vm, &vm.stored_status().await));
        Ok(Response::new(v1::GetVmResponse { vm, stats }))
    }

    async fn list_vms(
        &self,
        request: Request<v1::ListVmsRequest>,
    ) -> Result<Response<v1::ListVmsResponse>, Refusal> {
        let list = pages::list(&self.daemon, request.get_ref()).await;
        list.map(Response::new)
    }

    async fn update_vm(
        &self,
        request: Request<v1::UpdateVmRequest>,
    ) -> Result<Response<v1::UpdateVmResponse>, Refusal> {
        let reach = check::reach(&self.daemon, request.extensions().get());
        let request = request.get_ref();
        let vm = self.find(&request.name)?;
        let status = update::update(&self.daemon, reach, &vm, request).await?;
        Ok(Response::new(v1::UpdateVmResponse {
            vm: Some(convert::vm(&vm, &status)),
            seq: status.seq,
        }))
    }

    async fn delete_vm(
        &self,
        request: Request<v1::DeleteVmRequest>,
    ) -> Result<Response<v1::DeleteVmResponse>, Refusal> {
        let v1::DeleteVmRequest {
            name, force, etag, ..
        } = request.get_ref();
        let seq = update::delete(&*self.find(name)?, *force, etag).await?.seq;
        Ok(Response::new(v1::DeleteVmResponse { seq }))
    }

    async fn start_vm(
        &self,
        request: Request<v1::StartVmRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        let v1::StartVmRequest { name, paused, .. } = request.into_inner();
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
        let v1::SetActionRequest { name, actions, .. } = request.into_inner();
        let change = check::actions("actions", &actions.unwrap_or_default())?;
        self.command(&name, Command::SetAction(change)).await
    }

    async fn quit(
        &self,
        request: Request<v1::QuitRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        self.command(&request.get_ref().name, Command::Quit).await
    }

    async fn resize_disk(
        &self,
        request: Request<v1::ResizeDiskRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        let v1::ResizeDiskRequest {
            name,
            disk,
            size_bytes: size,
            allow_shrink,
            ..
        } = request.into_inner();
        let resize = DeviceCommand::ResizeDisk {
            disk,
            size,
            allow_shrink,
        };
        self.device(&name, resize).await
    }

    async fn balloon(
        &self,
        request: Request<v1::BalloonRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        let v1::BalloonRequest {
            name, size_bytes, ..
        } = request.into_inner();
        balloon::size("size_bytes", size_bytes)?;
        self.device(&name, DeviceCommand::Balloon { size: size_bytes })
            .await
    }

    async fn query_balloon(
        &self,
        request: Request<v1::QueryBalloonRequest>,
    ) -> Result<Response<v1::QueryBalloonResponse>, Refusal> {
        let name = &request.get_ref().name;
        let balloon = self.find(name)?.balloon();
        let balloon = balloon.map_err(|error| errors::vm(name, &error))?;
        Ok(Response::new(convert::balloon_state(&balloon)))
    }

    async fn device_add(
        &self,
        request: Request<v1::DeviceAddRequest>,
    ) -> Result<Response<v1::DeviceAddResponse>, Refusal> {
        let reach = check::reach(&self.daemon, request.extensions().get());
        let v1::DeviceAddRequest { name, device, .. } = request.into_inner();
        let vm = self.find(&name)?;
        let config = devices::open(&self.daemon, reach, &vm, device).await?;
        let added = vm.device(DeviceCommand::Add(config)).await;
        let (status, device) = added.map_err(|error| errors::vm(&name, &error))?;
        Ok(Response::new(v1::DeviceAddResponse {
            device,
            status: Some(convert::status(&status)),
            seq: status.seq,
        }))
    }

    async fn device_del(
        &self,
        request: Request<v1::DeviceDelRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        let v1::DeviceDelRequest { name, device, .. } = request.into_inner();
        self.device(&name, DeviceCommand::Remove { device }).await
    }

    async fn set_link(
        &self,
        request: Request<v1::SetLinkRequest>,
    ) -> Result<Response<v1::CommandResponse>, Refusal> {
        let v1::SetLinkRequest { name, net, up, .. } = request.into_inner();
        self.device(&name, DeviceCommand::SetLink { net, up }).await
    }

    type WatchEventsStream = BoxedStream<v1::Event>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Refusal> {
        let daemon = self.daemon.clone();
        let caller = request.extensions().get().cloned();
        let request = request.into_inner();
        if request.audit {
            check::may_audit(caller)?;
        }
        let filter = Filter::of(&request)?;
        // What is already lost is told at once, as the answer to the call.
        watch::log_of(&request)(&daemon)
            .check(request.after_seq)
            .map_err(|lost| errors::lost(&lost))?;
        Ok(stream(|sender| {
            watch::events(daemon, request, filter, sender)
        }))
    }

    type WatchVmsStream = BoxedStream<v1::WatchVmsResponse>;

    async fn watch_vms(
        &self,
        request: Request<v1::WatchVmsRequest>,
    ) -> Result<Response<Self::WatchVmsStream>, Refusal> {
        let daemon = self.daemon.clone();
        let request = request.into_inner();
        let selector = Selector::of_field("label_selector", &request.label_selector)?;
        let name = request.name;
        Ok(stream(|sender| watch::vms(daemon, name, selector, sender)))
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
        let console = console::of(self.find(&first.name)?.as_ref(), &first);
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
        let door = vm.door();
        let machine = Machine { daemon, vm, door };
        Ok(stream(|sender| {
            qmp::serve(machine, first, requests, sender)
        }))
    }
}
