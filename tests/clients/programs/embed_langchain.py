"""LangChain: vectors of texts and of a query."""

import json
import os

from langchain_openai import OpenAIEmbeddings

# Otherwise it sends tokens of OpenAI's vocabulary instead of texts.
client = OpenAIEmbeddings(
    base_url=os.environ["URL"] + "/v1",
    api_key="none",
    model=os.environ["MODEL"],
    check_embedding_ctx_length=False,
    max_retries=0,
)
print(json.dumps([*client.embed_documents(["a record", "x"]), client.embed_query("a record")]))
