"""lmstd, a client of LM Studio's own API: load, chat, a stream, the list, unload."""

import json
import os

from lmstd import LMStd

client = LMStd(base_url=os.environ["URL"])
model = os.environ["MODEL"]
loaded = client.load_model(model, context_length=4096, echo_load_config=True)
found = {"status": loaded["status"], "context": loaded["load_config"]["context_length"]}
name = loaded["instance_id"]
answer = client.chat(name, "Hello", temperature=0, max_output_tokens=50)
found["text"] = [item["content"] for item in answer["output"] if item["type"] == "message"]
events = list(client.chat_stream(name, "Hello", max_output_tokens=50))
found["events"] = [event["type"] for event in events]
found["stream"] = "".join(e["content"] for e in events if e["type"] == "message.delta")
listed = [one for one in client.list_models()["models"] if one["key"] == model]
found["listed"] = [instance["id"] for one in listed for instance in one["loaded_instances"]]
found["unloaded"] = client.unload_model(name)["instance_id"]
print(json.dumps(found))
