"""Cuts the types that the tap looks up out of the BTF of a kernel (vmlinuz or a BTF file): trim.py SOURCE DESTINATION"""
import sys,struct,subprocess,lzma,gzip,re
def extract(path):
    d=open(path,'rb').read()
    for magic,cmd in ((b'\xfd7zXZ\0',['xz','-dc']),(b'\x28\xb5\x2f\xfd',['zstd','-dcq']),(b'\x1f\x8b\x08',['gzip','-dc']),(b'\x02\x21\x4c\x18',['lz4','-dc'])):
        for m in re.finditer(re.escape(magic),d):
            p=subprocess.run(cmd,input=d[m.start():],stdout=subprocess.PIPE,stderr=subprocess.DEVNULL)
            if p.stdout[:4]==b'\x7fELF': return p.stdout
def section(elf,name):
    shoff,=struct.unpack_from('<Q',elf,40); es,n,sx=struct.unpack_from('<HHH',elf,58)
    S=[struct.unpack_from('<IIQQQQIIQQ',elf,shoff+i*es) for i in range(n)]
    so=S[sx][4]
    for s in S:
        nm=elf[so+s[0]:elf.index(b'\0',so+s[0])]
        if nm==name: return elf[s[4]:s[4]+s[5]]
def parse(b):
    hl,to,tl,so,sl=struct.unpack_from('<IIIII',b,4)
    T=b[hl+to:hl+to+tl]; ST=b[hl+so:hl+so+sl]
    st=lambda o: ST[o:ST.index(b'\0',o)].decode()
    types=[None]; o=0
    while o<len(T):
        n,i,s=struct.unpack_from('<III',T,o); k=(i>>24)&31; v=i&0xffff
        L={1:4,3:12,4:12*v,5:12*v,6:8*v,13:8*v,14:4,15:12*v,17:4,19:12*v}.get(k,0)
        types.append((st(n),k,i>>31,v,s,T[o+12:o+12+L])); o+=12+L
    return types,st
STRUCTS='sock sock_common inet_sock socket socket_alloc inode tcp_sock udp_sock task_struct signal_struct files_struct fdtable file msghdr iov_iter sk_buff skb_shared_info'.split()
FUNCS='inet_sendmsg inet6_sendmsg inet_recvmsg inet6_recvmsg skb_consume_udp'.split()
def trim(b):
    types,st=parse(b)
    strs=bytearray(b'\0'); idx={}
    def name(s):
        if not s: return 0
        if s not in idx: idx[s]=len(strs); strs.extend(s.encode()+b'\0')
        return idx[s]
    out=[struct.pack('<IIII',name('int'),1<<24,4,32)]  # 1: placeholder for every type that is not looked into
    new={}
    def strip(t):
        while t and types[t][1] in (8,9,10,11,18): t=types[t][4]
        return t
    def add(t):
        t=strip(t)
        if t==0: return 1
        if t in new: return new[t]
        n,k,kf,v,s,data=types[t]
        if k in (4,5) and (n=='' or n in STRUCTS):
            out.append(None); me=len(out); new[t]=me
            ms=b''
            for i in range(v):
                mn,mt,mo=struct.unpack_from('<III',data,12*i)
                rt=strip(mt)
                keep=rt and types[rt][1] in (4,5) and (types[rt][0]=='' or types[rt][0] in STRUCTS)
                ms+=struct.pack('<III',name(st(mn)),add(rt) if keep else 1,mo)
            out[me-1]=struct.pack('<III',name(n),kf<<31|k<<24|v,s)+ms
            return me
        return 1
    seen=set()
    for t in range(1,len(types)):
        n,k,kf,v,s,data=types[t]
        if k==4 and n in STRUCTS and n not in seen: seen.add(n); add(t)
        if k==6 and any(st(struct.unpack_from('<I',data,8*i)[0]) in ('ITER_IOVEC','UDP_FLAGS_CORK','SKB_GSO_UDP_L4') for i in range(v)):
            out.append(struct.pack('<III',name(n),k<<24|v,s)+b''.join(struct.pack('<Ii',name(st(a)),c) for a,c in (struct.unpack_from('<Ii',data,8*i) for i in range(v))))
        if k==12 and n in FUNCS and n not in seen:
            seen.add(n); p=types[s]
            out.append(struct.pack('<III',0,13<<24|p[3],1)+b''.join(struct.pack('<II',name(st(struct.unpack_from('<I',p[5],8*i)[0])),1) for i in range(p[3])))
            out.append(struct.pack('<III',name(n),12<<24,len(out)))
    T=b''.join(out)
    print(sorted(set(STRUCTS+FUNCS)-seen))
    return struct.pack('<HBBIIIII',0xeb9f,1,0,24,0,len(T),len(T),len(strs))+T+bytes(strs)
src,dst=sys.argv[1:]
b=open(src,'rb').read()
if b[:2]!=b'\x9f\xeb': b=section(extract(src),b'.BTF')
o=trim(b); open(dst,'wb').write(o); print(dst,len(b),len(o))
