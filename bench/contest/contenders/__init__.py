"""Training code as each tool's own documentation has it, one module a tool.

Each has ``train(job, workload, model, gate)``: fine-tune ``model`` by the job's recipe, call ``gate.step(loss)`` after
every optimizer step, and stop when it says so. Nothing in them measures or checks.
"""
