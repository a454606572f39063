from .conftest import *
from .test_engine import *
def test_dbg(saved, loaded):
    for arch in ("llama","gpt2","mistral","gpt_neox"):
        pr=number_prompts(200)
        c=Engine(loaded(arch), NO_STOP, buckets=table()).generate_all(requests(pr))
        stock = AutoModelForCausalLM.from_pretrained(saved(arch), dtype=torch.float32); v=[]; mm=[]
        for r,k in zip(requests(pr),c):
            t,m=stock_tokens(stock,[int(w) for w in r.prompt.split()],r.frames[0].limit); mm+=m
            v.append(agrees([int(w) for w in k.texts[0].split()]+[END]*k.ended[0],t,m))
        print(arch,'agree',v.count(True),'excluded',v.count(None),'steps',len(mm),'margins<=1e-4',sum(x<=1e-4 for x in mm),'distinct tokens',len({w for k in c for w in k.texts[0].split()}),'ended',sum(k.ended[0] for k in c))
