//! The service as clients have it: a call that changes something and has a request id is served once.
//!
//! Such a call is served in a task of its own, to its end, whether its caller waits for that or not: a repeat gets its
//! answer.

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response, Status as Refusal, Streaming};
use tracing::Instrument;
use vmd_proto::v1::{self, vm_service_server::VmService};

use super::{
    Calls,
    answers::{Answers, Call, Claim, Outcome},
    errors::{self, invalid_field},
};
use crate::{Daemon, access::Caller, store::answers::Key};

/// Longest request id, in characters.
const MAX_ID: usize = 128;

/// Serves `vmd.v1.VmService` for one daemon.
pub(crate) struct Service {
    calls: Arc<Calls>,
    answers: Arc<Answers>,
}

impl Service {
    /// The service of `daemon`.
    pub(crate) fn new(daemon: Arc<Daemon>) -> Self {
        Self {
            answers: Arc::new(Answers::new(daemon.events.clone())),
            calls: Arc::new(Calls { daemon }),
        }
    }

    /// Has `serve` serve the request, unless one of this caller's with this id was served already.
    async fn once<Q, A, F>(
        &self,
        method: &'static str,
        id: String,
        request: Request<Q>,
        serve: impl FnOnce(Arc<Calls>, Request<Q>) -> F + Send + 'static,
    ) -> Result<Response<A>, Refusal>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
        F: Future<Output = Result<Response<A>, Refusal>> + Send + 'static,
    {
        let calls = self.calls.clone();
        let tasks = &self.calls.daemon.calls;
        if id.is_empty() {
            return serve(calls, request).await;
        }
        if id.len() > MAX_ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            let problem =
                format!("an id has at most {MAX_ID} printable ASCII characters, no spaces");
            return Err(invalid_field("request_id", &problem));
        }
        let call = Call {
            method: method.to_owned(),
            request: request.get_ref().encode_to_vec(),
        };
        // Whoever comes another way than through the guard is one.
        let caller = request.extensions().get::<Caller>();
        let caller = caller.map_or_else(String::new, |caller| caller.peer.identity());
        let key = Key { caller, id };
        let outcome: Outcome = match self.answers.claim(key.clone(), call) {
            Claim::First(ticket) => {
                let task = async move {
                    let ticket = match ticket.look_up().await {
                        Ok(ticket) => ticket,
                        Err(known) => return decoded(method, known),
                    };
                    let served = serve(calls, request).await;
                    let outcome = match &served {
                        Ok(answer) => Ok(answer.get_ref().encode_to_vec().into()),
                        Err(refusal) => Err(refusal.clone()),
                    };
                    ticket.finish(outcome).await;
                    served
                };
                let served = tasks.spawn(task.in_current_span()).await;
                return served.map_err(|error| errors::internal(method, &error.to_string()))?;
            }
            Claim::UnderWay(mut first) => match first.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(lost(method))),
                Err(_) => Err(lost(method)),
            },
            Claim::Answered(answer) => Ok(answer),
            Claim::Reused => Err(errors::request_id_reused(&key.id)),
        };
        decoded(method, outcome)
    }
}

/// The answer to a call of `method` that was served before.
fn decoded<A: Message + Default>(method: &str, outcome: Outcome) -> Result<Response<A>, Refusal> {
    let answer = A::decode(&*outcome?);
    let answer = answer.map_err(|error| errors::internal(method, &error.to_string()))?;
    Ok(Response::new(answer))
}

/// The task of the first call broke down.
fn lost(method: &str) -> Refusal {
    errors::internal(method, "the first call with this id came to no end")
}

/// Writes the service: the calls that change something, those that do not, and the streams.
macro_rules! service {
    (
        changing { $($change:ident($change_request:ident) -> $change_response:ident;)* }
        reading { $($read:ident($read_request:ident) -> $read_response:ident;)* }
        streaming { $($follow:ident($follow_request:ty) -> $stream:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl VmService for Service {
            $(async fn $change(
                &self,
                request: Request<v1::$change_request>,
            ) -> Result<Response<v1::$change_response>, Refusal> {
                let id = request.get_ref().request_id.clone();
                let serve = |calls: Arc<Calls>, request| async move { calls.$change(request).await };
                self.once(stringify!($change), id, request, serve).await
            })*

            $(async fn $read(
                &self,
                request: Request<v1::$read_request>,
            ) -> Result<Response<v1::$read_response>, Refusal> {
                self.calls.$read(request).await
            })*

            $(type $stream = <Calls as VmService>::$stream;

            async fn $follow(
                &self,
                request: Request<$follow_request>,
            ) -> Result<Response<Self::$stream>, Refusal> {
                self.calls.$follow(request).await
            })*
        }
    };
}

service! {
    changing {
        create_vm(CreateVmRequest) -> CreateVmResponse;
        update_vm(UpdateVmRequest) -> UpdateVmResponse;
        delete_vm(DeleteVmRequest) -> DeleteVmResponse;
        start_vm(StartVmRequest) -> CommandResponse;
        cont(ContRequest) -> CommandResponse;
        stop(StopRequest) -> CommandResponse;
        system_reset(SystemResetRequest) -> CommandResponse;
        system_powerdown(SystemPowerdownRequest) -> CommandResponse;
        system_wakeup(SystemWakeupRequest) -> CommandResponse;
        inject_nmi(InjectNmiRequest) -> CommandResponse;
        set_action(SetActionRequest) -> CommandResponse;
        quit(QuitRequest) -> CommandResponse;
        resize_disk(ResizeDiskRequest) -> CommandResponse;
        balloon(BalloonRequest) -> CommandResponse;
        device_add(DeviceAddRequest) -> DeviceAddResponse;
        device_del(DeviceDelRequest) -> CommandResponse;
        set_link(SetLinkRequest) -> CommandResponse;
    }
    reading {
        get_vm(GetVmRequest) -> GetVmResponse;
        list_vms(ListVmsRequest) -> ListVmsResponse;
        query_balloon(QueryBalloonRequest) -> QueryBalloonResponse;
    }
    streaming {
        watch_events(v1::WatchEventsRequest) -> WatchEventsStream;
        watch_vms(v1::WatchVmsRequest) -> WatchVmsStream;
        console(Streaming<v1::ConsoleRequest>) -> ConsoleStream;
        qmp(Streaming<v1::QmpRequest>) -> QmpStream;
        record(v1::RecordRequest) -> RecordStream;
    }
}
