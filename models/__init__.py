"""Language models: loading, quantizing, batching, generating. Knows strings and tokens, nothing of docs."""
