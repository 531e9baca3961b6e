//! Requests that rdkafka does not have, by librdkafka itself. IncrementalAlterConfigs: what is not named
//! stays, while the older call resets every setting of a topic that it does not name. DescribeTopics: the ids
//! of topics.
//!
//! The only unsafe code beside that of our dependencies. It is sound because: every pointer comes from
//! librdkafka's own constructor and is checked for null; an [`Owned`] destroys it once, and those that
//! use another are declared behind it and so gone before it; texts that we hand over outlive the call,
//! which copies them; what librdkafka hands back is read before the event that owns it is destroyed;
//! and the client is borrowed throughout, so that it outlives them all.
//!
//! Source: librdkafka 2.12, rdkafka.h, "IncrementalAlterConfigs", "DescribeTopics".

#![allow(unsafe_code, reason = "rdkafka has no safe form of these calls")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::bindings::rd_kafka_admin_op_t as Op;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

/// What brokers tell as id that know none, in base64.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Why a request was refused: the broker's code where there is one, and its words.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub(super) struct Refused {
    pub(super) code: Option<RDKafkaErrorCode>,
    words: String,
}

impl Refused {
    fn new(words: impl Into<String>) -> Refused {
        Refused { code: None, words: words.into() }
    }

    fn by(code: RDKafkaRespErr, words: String) -> Refused {
        let code = RDKafkaErrorCode::from(code);
        let words = if words.is_empty() { code.to_string() } else { words };
        Refused { code: Some(code), words }
    }
}

/// What librdkafka made and we destroy.
struct Owned<T> {
    at: *mut T,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(at: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Owned<T>, Refused> {
        match at.is_null() {
            false => Ok(Owned { at, destroy }),
            true => Err(Refused::new("librdkafka made nothing")),
        }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: not null, made by the constructor that belongs to `destroy`, and destroyed here alone
        unsafe { (self.destroy)(self.at) }
    }
}

/// Sets these settings of a topic, all or none, and leaves the others alone. Waits for the answer.
pub(super) fn set<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    settings: &[(&str, &str)],
    within: Duration,
) -> Result<(), Refused> {
    let topic = text(topic)?;
    // SAFETY: the text ends with NUL and outlives the call, which copies it
    let resource = unsafe {
        native::rd_kafka_ConfigResource_new(
            native::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            topic.as_ptr(),
        )
    };
    let resource = Owned::new(resource, native::rd_kafka_ConfigResource_destroy)?;
    for (name, value) in settings {
        let (name, value) = (text(name)?, text(value)?);
        // SAFETY: the resource is alive; the texts end with NUL and outlive the call, which copies them
        let error = unsafe {
            native::rd_kafka_ConfigResource_add_incremental_config(
                resource.at,
                name.as_ptr(),
                native::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET,
                value.as_ptr(),
            )
        };
        refuse(error)?;
    }
    let mut resources = [resource.at];
    let answer = ask(client, Op::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS, within, |to| {
        // SAFETY: all are alive, and the list has one element; the call copies what it needs of them
        unsafe {
            native::rd_kafka_IncrementalAlterConfigs(
                to.client,
                resources.as_mut_ptr(),
                resources.len(),
                to.options,
                to.queue,
            );
        }
    })?;
    altered(&answer)
}

/// The ids of topics, as far as the brokers tell them: a topic that is made anew has another. Every broker
/// knows them: who asked the controller would wait while there is none.
pub(super) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    within: Duration,
) -> Result<HashMap<String, String>, Refused> {
    let names: Vec<CString> = topics.iter().map(|topic| text(topic)).collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the texts end with NUL and outlive the call, which copies them
    let collection = unsafe {
        native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len())
    };
    let collection = Owned::new(collection, native::rd_kafka_TopicCollection_destroy)?;
    let metadata = client.fetch_metadata(topics.first().copied(), within);
    let metadata = metadata.map_err(|error| Refused::new(error.to_string()))?;
    let broker = metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id);
    let broker = broker.ok_or_else(|| Refused::new("no broker is told of"))?;
    let answer = ask(client, Op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, within, |to| {
        // SAFETY: the options are alive, and are our own; no text is written where no room is given. One that is
        // refused leaves the controller
        unsafe {
            native::rd_kafka_AdminOptions_set_broker(to.options, broker, ptr::null_mut(), 0);
        }
        // SAFETY: all are alive; the call copies what it needs of them
        unsafe { native::rd_kafka_DescribeTopics(to.client, collection.at, to.options, to.queue) }
    })?;
    // SAFETY: the event is alive; null where it is the answer to another call
    let result = unsafe { native::rd_kafka_event_DescribeTopics_result(answer.event.at) };
    if result.is_null() {
        return Err(Refused::new("the answer is one to another request"));
    }
    let mut count = 0;
    // SAFETY: the result belongs to the event, which is alive
    let list = unsafe { native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count) };
    let mut ids = HashMap::new();
    for at in 0..if list.is_null() { 0 } else { count } {
        // SAFETY: the list has `count` elements that belong to the event, which is alive
        let (name, id) = unsafe {
            let topic = *list.add(at);
            let id = native::rd_kafka_TopicDescription_topic_id(topic);
            let id = if id.is_null() { ptr::null() } else { native::rd_kafka_Uuid_base64str(id) };
            (text_of(native::rd_kafka_TopicDescription_name(topic)), text_of(id))
        };
        if !id.is_empty() && id != NO_ID {
            ids.insert(name, id);
        }
    }
    Ok(ids)
}

/// What a call asks with.
struct To {
    client: *mut native::rd_kafka_t,
    options: *mut native::rd_kafka_AdminOptions_t,
    queue: *mut native::rd_kafka_queue_t,
}

/// An answer, and what it came by: the event is destroyed first.
struct Answer {
    event: Owned<native::rd_kafka_event_t>,
    _queue: Owned<native::rd_kafka_queue_t>,
}

/// Sends a request and waits for its answer; one that says no is an error.
fn ask<C: ClientContext>(
    client: &Client<C>,
    op: Op,
    within: Duration,
    call: impl FnOnce(To),
) -> Result<Answer, Refused> {
    let milliseconds = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
    let options = options(client, op, milliseconds)?;
    // SAFETY: the client is alive
    let queue = unsafe { native::rd_kafka_queue_new(client.native_ptr()) };
    let queue = Owned::new(queue, native::rd_kafka_queue_destroy)?;
    call(To { client: client.native_ptr(), options: options.at, queue: queue.at });
    // the request itself gives up before
    let patience = milliseconds.saturating_add(5_000);
    // SAFETY: the queue is alive
    let event = unsafe { native::rd_kafka_queue_poll(queue.at, patience) };
    let event = Owned::new(event, native::rd_kafka_event_destroy)
        .map_err(|_| Refused::new("the broker did not answer"))?;
    // SAFETY: the event is alive, and so is the text that it owns
    let (code, words) = unsafe {
        let code = native::rd_kafka_event_error(event.at);
        (code, text_of(native::rd_kafka_event_error_string(event.at)))
    };
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(Answer { event, _queue: queue }),
        code => Err(Refused::by(code, words)),
    }
}

/// Options of a call: how long the request may take.
fn options<C: ClientContext>(
    client: &Client<C>,
    op: Op,
    milliseconds: i32,
) -> Result<Owned<native::rd_kafka_AdminOptions_t>, Refused> {
    // SAFETY: the client is alive
    let options = unsafe { native::rd_kafka_AdminOptions_new(client.native_ptr(), op) };
    let options = Owned::new(options, native::rd_kafka_AdminOptions_destroy)?;
    // SAFETY: the options are alive; no text is written where no room is given
    let refused = unsafe {
        native::rd_kafka_AdminOptions_set_request_timeout(
            options.at,
            milliseconds,
            ptr::null_mut(),
            0,
        )
    };
    match refused {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(options),
        refused => Err(Refused::by(refused, String::new())),
    }
}

/// What the broker said of each change.
fn altered(answer: &Answer) -> Result<(), Refused> {
    let event = &answer.event;
    // SAFETY: the event is alive; null where it is the answer to another call
    let result = unsafe { native::rd_kafka_event_IncrementalAlterConfigs_result(event.at) };
    if result.is_null() {
        return Err(Refused::new("the answer is one to another request"));
    }
    let mut count = 0;
    // SAFETY: the result belongs to the event, which is alive
    let list = unsafe {
        native::rd_kafka_IncrementalAlterConfigs_result_resources(result, &raw mut count)
    };
    for at in 0..if list.is_null() { 0 } else { count } {
        // SAFETY: the list has `count` elements that belong to the event, which is alive
        let (code, words) = unsafe {
            let resource = *list.add(at);
            let code = native::rd_kafka_ConfigResource_error(resource);
            (code, text_of(native::rd_kafka_ConfigResource_error_string(resource)))
        };
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(Refused::by(code, words));
        }
    }
    Ok(())
}

/// An error that librdkafka hands over, if it does.
fn refuse(error: *mut native::rd_kafka_error_t) -> Result<(), Refused> {
    let Ok(error) = Owned::new(error, native::rd_kafka_error_destroy) else { return Ok(()) };
    // SAFETY: the error is alive, and so is the text that it owns
    let (code, words) = unsafe {
        let code = native::rd_kafka_error_code(error.at);
        (code, text_of(native::rd_kafka_error_string(error.at)))
    };
    Err(Refused::by(code, words))
}

fn text(text: &str) -> Result<CString, Refused> {
    CString::new(text).map_err(|_| Refused::new("a NUL stands in it"))
}

/// A text of librdkafka's.
///
/// # Safety
///
/// It is null, or ends with NUL and is alive.
unsafe fn text_of(at: *const c_char) -> String {
    match at.is_null() {
        true => String::new(),
        // SAFETY: as the caller says
        false => unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned(),
    }
}
