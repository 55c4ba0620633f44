//! A daemon of the tests' own: a socket, a service that answers by the machine's name, and a
//! connection that can be cut. It keeps no machines.

use std::{collections::HashMap, future::pending, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    runtime::Runtime,
    sync::{Notify, mpsc},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};
use vmctl::{
    Endpoint,
    v1::{
        self, CommandResponse, RunState, Vm, VmDefinition, VmPhase, VmStatus,
        event::Kind,
        vm_service_server::{VmService, VmServiceServer},
        watch_vms_response::Update,
    },
};

/// A running fake daemon; dropping it ends it and removes its socket.
pub(crate) struct Fake {
    dir: TempDir,
    runtime: Option<Runtime>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(dir.path().join("s")).unwrap()
        };
        runtime.spawn(serve(listener));
        Self {
            dir,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(PathBuf::from(self.dir.path()).join("s"))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // An async test may not wait for the runtime's threads.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: UnixListener) {
    let cut = Arc::new(Notify::new());
    let service = VmServiceServer::new(Service { cut: cut.clone() });
    while let Ok((stream, _)) = listener.accept().await {
        let (service, cut) = (TowerToHyperService::new(service.clone()), cut.clone());
        tokio::spawn(async move {
            let server = Builder::new(TokioExecutor::new());
            tokio::select! {
                _ = server.serve_connection(TokioIo::new(stream), service) => {}
                () = cut.notified() => {}
            }
        });
    }
}

struct Service {
    cut: Arc<Notify>,
}

/// A machine in a state, as of event 9.
fn vm(name: &str, phase: VmPhase, state: RunState) -> Vm {
    let running = phase == VmPhase::Live && state == RunState::Running;
    let (phase, state) = (phase.into(), state.into());
    let status = VmStatus {
        phase,
        state,
        running,
        seq: 9,
        vm_seq: 3,
        ..Default::default()
    };
    let definition = VmDefinition {
        memory_bytes: Some(256 << 20),
        vcpus: Some(1),
        ..Default::default()
    };
    Vm {
        name: name.to_owned(),
        id: format!("id-of-{name}"),
        definition: Some(definition),
        status: Some(status),
        ..Default::default()
    }
}

fn no(code: Code, reason: &str, text: &str, facts: &[(&str, &str)]) -> Status {
    let facts: HashMap<_, _> = facts
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Status::with_error_details(
        code,
        text,
        ErrorDetails::with_error_info(reason, "vmd", facts),
    )
}

impl Service {
    /// The machine of a name: each name stands for a situation.
    async fn find(&self, name: &str) -> Result<Vm, Status> {
        match name {
            "missing" => Err(no(
                Code::NotFound,
                "VM_NOT_FOUND",
                "there is no machine 'missing'",
                &[],
            )),
            "cut" => {
                self.cut.notify_waiters();
                pending().await
            }
            "ended" => Ok(vm(name, VmPhase::Ended, RunState::Shutdown)),
            _ => Ok(vm(name, VmPhase::Live, RunState::Running)),
        }
    }

    async fn command(&self, name: &str) -> Result<Response<CommandResponse>, Status> {
        let vm = self.find(name).await?;
        if name == "ended" {
            return Err(no(
                Code::FailedPrecondition,
                "VM_ENDED",
                "'ended' has ended",
                &[],
            ));
        }
        Ok(Response::new(CommandResponse {
            status: vm.status,
            seq: 9,
        }))
    }
}

type Replies<T> = ReceiverStream<Result<T, Status>>;

/// Implements the service: the calls that answer a `CommandResponse` by name, the others in full.
macro_rules! service {
    ($($method:ident($request:ident);)* { $($rest:tt)* }) => {
        #[tonic::async_trait]
        impl VmService for Service {
            $(async fn $method(
                &self,
                request: Request<v1::$request>,
            ) -> Result<Response<CommandResponse>, Status> {
                self.command(&request.into_inner().name).await
            })*
            $($rest)*
        }
    };
}

service! {
    start_vm(StartVmRequest);
    cont(ContRequest);
    stop(StopRequest);
    system_reset(SystemResetRequest);
    system_powerdown(SystemPowerdownRequest);
    system_wakeup(SystemWakeupRequest);
    inject_nmi(InjectNmiRequest);
    set_action(SetActionRequest);
    quit(QuitRequest);
    resize_disk(ResizeDiskRequest);
    balloon(BalloonRequest);
    set_link(SetLinkRequest);
    device_del(DeviceDelRequest);
    {
        async fn query_balloon(
            &self,
            request: Request<v1::QueryBalloonRequest>,
        ) -> Result<Response<v1::QueryBalloonResponse>, Status> {
            self.find(&request.into_inner().name).await?;
            Ok(Response::new(Default::default()))
        }

        async fn create_vm(
            &self,
            request: Request<v1::CreateVmRequest>,
        ) -> Result<Response<v1::CreateVmResponse>, Status> {
            let request = request.into_inner();
            let mut vm = self.find(&request.name).await?;
            vm.definition = request.definition;
            Ok(Response::new(v1::CreateVmResponse { vm: Some(vm), seq: 9 }))
        }

        async fn device_add(
            &self,
            request: Request<v1::DeviceAddRequest>,
        ) -> Result<Response<v1::DeviceAddResponse>, Status> {
            let vm = self.find(&request.into_inner().name).await?;
            Ok(Response::new(v1::DeviceAddResponse {
                device: "d1".to_owned(),
                status: vm.status,
                seq: 9,
            }))
        }

        async fn get_vm(
            &self,
            request: Request<v1::GetVmRequest>,
        ) -> Result<Response<v1::GetVmResponse>, Status> {
            let vm = Some(self.find(&request.into_inner().name).await?);
            Ok(Response::new(v1::GetVmResponse { vm, stats: None }))
        }

        async fn list_vms(
            &self,
            _: Request<v1::ListVmsRequest>,
        ) -> Result<Response<v1::ListVmsResponse>, Status> {
            let vms = vec![self.find("a").await?, self.find("ended").await?];
            Ok(Response::new(v1::ListVmsResponse { vms, seq: 9, ..Default::default() }))
        }

        async fn update_vm(
            &self,
            request: Request<v1::UpdateVmRequest>,
        ) -> Result<Response<v1::UpdateVmResponse>, Status> {
            let request = request.into_inner();
            let mut vm = self.find(&request.name).await?;
            vm.labels = request.labels;
            Ok(Response::new(v1::UpdateVmResponse { vm: Some(vm), seq: 10 }))
        }

        async fn delete_vm(
            &self,
            request: Request<v1::DeleteVmRequest>,
        ) -> Result<Response<v1::DeleteVmResponse>, Status> {
            self.find(&request.into_inner().name).await?;
            Ok(Response::new(v1::DeleteVmResponse { seq: 10 }))
        }

        type WatchEventsStream = Replies<v1::Event>;

        /// Events 5 to 9 are kept; of machine "cut", the connection breaks after the first.
        async fn watch_events(
            &self,
            request: Request<v1::WatchEventsRequest>,
        ) -> Result<Response<Self::WatchEventsStream>, Status> {
            let request = request.into_inner();
            if !(4..=9).contains(&request.after_seq) {
                let facts = [("oldest_seq", "5"), ("newest_seq", "9")];
                return Err(no(Code::OutOfRange, "EVENTS_LOST", "no longer kept", &facts));
            }
            let (replies, queue) = mpsc::channel(16);
            let cut = self.cut.clone();
            tokio::spawn(async move {
                for seq in request.after_seq + 1..=9 {
                    let event = v1::Event {
                        seq,
                        vm_name: "a".to_owned(),
                        state: RunState::Paused.into(),
                        kind: Some(Kind::Stop(v1::event::Stop {})),
                        ..Default::default()
                    };
                    let _ = replies.send(Ok(event)).await;
                    if request.name == "cut" {
                        sleep(Duration::from_millis(100)).await;
                        cut.notify_waiters();
                        return replies.closed().await;
                    }
                }
                if !request.history_only {
                    replies.closed().await;
                }
            });
            Ok(Response::new(ReceiverStream::new(queue)))
        }

        type WatchVmsStream = Replies<v1::WatchVmsResponse>;

        /// Machine "a" pauses after a while; the others stay as they are. All: "a" and "ended".
        async fn watch_vms(
            &self,
            request: Request<v1::WatchVmsRequest>,
        ) -> Result<Response<Self::WatchVmsStream>, Status> {
            let name = request.into_inner().name;
            let mut now = Vec::new();
            for name in if name.is_empty() { vec!["a", "ended"] } else { vec![name.as_str()] } {
                now.extend(self.find(name).await.ok());
            }
            let (replies, queue) = mpsc::channel(16);
            tokio::spawn(async move {
                let send = async |update| {
                    let reply = v1::WatchVmsResponse { update: Some(update), seq: 9 };
                    let _ = replies.send(Ok(reply)).await;
                };
                for vm in now {
                    send(Update::Vm(vm)).await;
                }
                send(Update::Synced(v1::watch_vms_response::Synced {})).await;
                if ["", "a"].contains(&name.as_str()) {
                    sleep(Duration::from_millis(50)).await;
                    send(Update::Vm(vm("a", VmPhase::Live, RunState::Paused))).await;
                }
                replies.closed().await;
            });
            Ok(Response::new(ReceiverStream::new(queue)))
        }

        type RecordStream = Replies<v1::RecordResponse>;

        /// A whole journal of machine "ended", else its first 20 lines; then of "short" the stream ends, of "odd" what
        /// comes is none, of "cut" the connection breaks, and of others nothing more comes.
        async fn record(
            &self,
            request: Request<v1::RecordRequest>,
        ) -> Result<Response<Self::RecordStream>, Status> {
            let name = request.into_inner().name;
            if name == "missing" {
                self.find(&name).await?;
            }
            let (replies, queue) = mpsc::channel(16);
            let cut = self.cut.clone();
            let journal = include_str!("../../../vmm/src/runstate/journal/tests/golden.journal");
            let lines: String = if name == "ended" {
                journal.to_owned()
            } else {
                journal.split_inclusive('\n').take(20).collect()
            };
            tokio::spawn(async move {
                let _ = replies.send(Ok(v1::RecordResponse { lines: lines.into() })).await;
                match name.as_str() {
                    "ended" | "short" => {}
                    "odd" => {
                        let lines = b"odd\n".to_vec();
                        let _ = replies.send(Ok(v1::RecordResponse { lines })).await;
                        replies.closed().await;
                    }
                    "cut" => {
                        sleep(Duration::from_millis(100)).await;
                        cut.notify_waiters();
                        replies.closed().await;
                    }
                    _ => replies.closed().await,
                }
            });
            Ok(Response::new(ReceiverStream::new(queue)))
        }

        type QmpStream = Replies<v1::QmpResponse>;

        /// Sends every byte back, and ends when the input does.
        async fn qmp(
            &self,
            request: Request<Streaming<v1::QmpRequest>>,
        ) -> Result<Response<Self::QmpStream>, Status> {
            let mut requests = request.into_inner();
            let hello = requests.message().await?.unwrap_or_default();
            self.find(&hello.name).await?;
            let (replies, queue) = mpsc::channel(16);
            tokio::spawn(async move {
                while let Ok(Some(request)) = requests.message().await {
                    let output = request.input;
                    let _ = replies.send(Ok(v1::QmpResponse { output })).await;
                }
            });
            Ok(Response::new(ReceiverStream::new(queue)))
        }

        type ConsoleStream = Replies<v1::ConsoleResponse>;

        /// Says "hi ", sends every byte back, and ends when the input does. Machine "deaf" reads
        /// nothing.
        async fn console(
            &self,
            request: Request<Streaming<v1::ConsoleRequest>>,
        ) -> Result<Response<Self::ConsoleStream>, Status> {
            let mut requests = request.into_inner();
            let hello = requests.message().await?.unwrap_or_default();
            self.find(&hello.name).await?;
            let (replies, queue) = mpsc::channel(16);
            let deaf = hello.name == "deaf";
            tokio::spawn(async move {
                let mut output = b"hi ".to_vec();
                loop {
                    let reply = v1::ConsoleResponse { output, offset: 0 };
                    let _ = replies.send(Ok(reply)).await;
                    if deaf {
                        replies.closed().await;
                    }
                    match requests.message().await {
                        Ok(Some(request)) => output = request.input,
                        _ => break,
                    }
                }
            });
            Ok(Response::new(ReceiverStream::new(queue)))
        }
    }
}
